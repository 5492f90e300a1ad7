"""Exported programs, read back to see whether they are the model."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from kdiga.export.torch_program import read_program, write_program
from tests.fuzz.mutations import damaged_bytes
from tests.fuzz.target import target
from tests.fuzz.weights import IMAGES, small


@functools.cache
def program() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_program(small().eval(), Path(folder) / "model.pt2")
        return (Path(folder) / "model.pt2").read_bytes()


@functools.cache
def answers() -> torch.Tensor:
    with torch.no_grad():
        return small().eval()(IMAGES)


@target(
    "export.program",
    {"model.pt2": damaged_bytes},
    lambda folder: (folder / "model.pt2").write_bytes(program()) and None,
)
def read_pt2(folder: Path) -> None:
    found = read_program(folder / "model.pt2")(IMAGES)
    assert torch.allclose(found, answers(), atol=1e-5), "another function than was exported"
