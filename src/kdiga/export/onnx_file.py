"""ONNX: one file for onnxruntime and most phones, with input ``images`` and output ``logits``; in float or int8.

Int8 is static quantisation in QDQ form: weights by channel, activations by tensor. The scales of the activations come
from the smallest and largest values on calibration images, which should be training images. Both are signed (S8S8),
weights symmetric about zero; this runs without saturation on ARM and on x86.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from kdiga.errors import InputError, words_of
from kdiga.export.formats import Format, Logits, example_images, refusal, register
from kdiga.io.atomic_write import replacing
from kdiga.models import Classifier

INPUT, OUTPUT = "images", "logits"
OPSET = 18  # the first whose Resize knows antialiasing, which a classifier of other sizes needs
INT8, INT8_FILE = "onnx-int8", "model.int8.onnx"
CALIBRATION_BATCH = 32


def write_onnx(model: Classifier, path: Path) -> None:
    """Write a classifier, in eval mode on the CPU, with its normalisation: any number of images to logits."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():  # the exporter warns about its internals
            program = torch.onnx.export(
                model,
                (example_images(model),),
                None,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: Dim("batch")},),
            )
    except Exception as error:  # the exporter's errors have no common base class
        raise refusal("onnx", model, error.__cause__ or error) from None
    if program is None:
        raise InputError(f"{model.spec.name} cannot be exported to onnx: the exporter returned no program.")
    with replacing(path) as partial:
        program.save(partial)


def read_onnx(path: Path, threads: int = 0) -> Logits:
    """Return the function of an ONNX file, run by onnxruntime on the CPU; 0 threads are PyTorch's current number."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads or torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors only: it warns about initialisers that it removes
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C++ library
        raise InputError(f"onnxruntime does not accept {str(path)!r} ({str(error)[:160]}); export it again.") from None

    def logits(images: Tensor) -> Tensor:
        (found,) = session.run([OUTPUT], {INPUT: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(found)

    return logits


def write_int8(source: Path, images: Tensor, path: Path) -> None:
    """Quantise a float file that :func:`write_onnx` wrote to int8; the new file is replaced atomically.

    The calibration images are 100 to 500 training images, float (example, channel, height, width) in [0, 1].
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    build: Any = quantization
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _without_advice():
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        try:
            # Folds batch norm and constants first, so that a convolution is quantised with what follows it.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            build.quantize_static(
                str(prepared),
                str(quantised),
                _CalibrationReader(images),
                quant_format=build.QuantFormat.QDQ,
                per_channel=True,
                activation_type=build.QuantType.QInt8,
                weight_type=build.QuantType.QInt8,
                calibrate_method=build.CalibrationMethod.MinMax,
            )
        except Exception as error:  # onnxruntime raises classes of its C++ library
            raise InputError(
                f"{source.name} cannot be quantised to int8 ({words_of(error, 160)}); export it without --int8."
            ) from None
        os.replace(quantised, path)


class _CalibrationReader:
    """Gives calibration images to onnxruntime, which asks for them batch by batch."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(CALIBRATION_BATCH))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch as onnxruntime's input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.contiguous().numpy()}


@contextlib.contextmanager
def _without_advice() -> Generator[None]:
    """Suppress advice that onnxruntime gives as warnings and through the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        root.setLevel(before)


ONNX = register(
    Format(
        "onnx",
        "model.onnx",
        "onnxruntime",
        write_onnx,
        read_onnx,
        packages=("onnx", "onnxruntime", "onnxscript"),
        extra="onnx",
    )
)
