"""ONNX: one file for onnxruntime and most phones, its input named ``images`` and its output ``logits``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from kdiga.errors import InputError
from kdiga.export.formats import Format, Logits, refusal, register
from kdiga.io.atomic_write import replacing
from kdiga.models import Classifier

INPUT, OUTPUT = "images", "logits"
OPSET = 18  # the first whose Resize knows antialiasing, which a classifier of other sizes needs


def write_onnx(model: Classifier, path: Path) -> None:
    """Write a classifier with its normalisation inside: pixels in [0, 1] in, logits out, any number of images.

    Args:
        model: in eval mode, on the CPU.
        path: of the file; replaced at once or not at all.

    Raises:
        InputError: if the network holds something that has no ONNX form.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter about its own workings
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
    except Exception as error:  # the exporter's errors have no common base, and any of them means one thing here
        raise refusal("onnx", model, error.__cause__ or error) from None
    if program is None:
        raise InputError(f"{model.spec.name} cannot be exported to onnx: the exporter returned no program.")
    with replacing(path) as partial:
        program.save(partial)


def read_onnx(path: Path, threads: int = 0) -> Logits:
    """Return the function of an ONNX file, run by onnxruntime on the CPU.

    Args:
        path: of the file.
        threads: that one call uses; 0 is as many as PyTorch uses now.

    Raises:
        InputError: if onnxruntime does not accept the file.
    """
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


def example_images(model: Classifier) -> Tensor:
    """Return images of the right shape for tracing: two, since a batch of one would be taken for a constant."""
    channels, size, _ = model.spec.takes
    return torch.full((2, channels, size, size), 0.5)


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
