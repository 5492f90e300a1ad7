"""Static int8 quantisation of an ONNX file, for phones: weights a channel, activations a tensor, in QDQ form.

Scales of the activations come from calibration images (their smallest and largest values), so those should be
training images. Weights and activations are signed and symmetric about zero for weights (S8S8), which runs without
saturation on ARM and on x86.
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

from torch import Tensor

from kdiga.errors import InputError, words_of
from kdiga.export.onnx_file import INPUT

NAME, FILE = "onnx-int8", "model.int8.onnx"
BATCH = 32


def write_int8(source: Path, images: Tensor, path: Path) -> None:
    """Quantise an ONNX file.

    Args:
        source: float file that :func:`kdiga.export.onnx_file.write_onnx` wrote.
        images: float (example, channel, height, width) in [0, 1], for calibration; 100 to 500 training images.
        path: of the new file; replaced at once or not at all.

    Raises:
        InputError: if onnxruntime cannot quantise the network.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    build: Any = quantization
    with tempfile.TemporaryDirectory(dir=path.parent) as place, _quiet():
        prepared, quantised = Path(place) / "prepared.onnx", Path(place) / "quantised.onnx"
        try:
            # Folds batch norm and constants first, so that a convolution is quantised with what follows it.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            build.quantize_static(
                str(prepared),
                str(quantised),
                _Calibration(images),
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


class _Calibration:
    """Hands the images to onnxruntime, which has no other way to ask for them."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(BATCH))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch as onnxruntime's input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.contiguous().numpy()}

    def __iter__(self) -> _Calibration:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep onnxruntime's advice, which it logs at the root, from the terminal."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
