"""A few lines that load each format, as a model card shows them; tests run every one."""

from __future__ import annotations

from kdiga.export.hub_folder import HUB
from kdiga.export.int8 import FILE as INT8_FILE
from kdiga.export.int8 import NAME as INT8
from kdiga.export.onnx_file import INPUT, ONNX, OUTPUT
from kdiga.export.torch_program import PROGRAM
from kdiga.export.weights_file import WEIGHTS

_ONNX = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
images = np.random.rand(4, {shape}).astype(np.float32)  # pixels in [0, 1]
(logits,) = session.run(["{output}"], {{"{input}": images}})
"""
_PROGRAM = """import torch

model = torch.export.load("{file}").module()
logits = model(torch.rand(4, {shape}))  # pixels in [0, 1]
"""
_MODEL = """import torch
import kdiga

model = kdiga.load_model("{file}"){remark}
with torch.no_grad():
    logits = model(torch.rand(4, {shape}))  # pixels in [0, 1]
"""
_SNIPPETS = {
    ONNX.name: (_ONNX, ONNX.file),
    INT8: (_ONNX, INT8_FILE),
    PROGRAM.name: (_PROGRAM, PROGRAM.file),
    WEIGHTS.name: (_MODEL, WEIGHTS.file),
    HUB.name: (_MODEL, f"{HUB.file}/{WEIGHTS.file}"),
}


def snippet(name: str, takes: tuple[int, int, int], *, in_hub_folder: bool = False) -> str:
    """Return Python that loads a format and runs it on random images, leaving ``logits``.

    Args:
        name: of the format.
        takes: channels and size of the images, and number of classes.
        in_hub_folder: it is read beside the weights themselves, or on the Hub.
    """
    channels, size, _ = takes
    template, file = _SNIPPETS[name]
    remark = ""
    if name == HUB.name and in_hub_folder:
        file, remark = WEIGHTS.file, '  # after an upload: "hf-hub:ORG/NAME"'
    return template.format(file=file, shape=f"{channels}, {size}, {size}", input=INPUT, output=OUTPUT, remark=remark)
