"""The precision of every test of this folder."""

from __future__ import annotations

import pytest
import torch

WITH_TF32 = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.fixture(autouse=True)
def full_precision():
    """By default a GPU computes convolutions of float32 in TF32, with errors of a hundredth of a gradient."""
    before = [one.allow_tf32 for one in WITH_TF32]
    for one in WITH_TF32:
        one.allow_tf32 = False
    yield
    for one, value in zip(WITH_TF32, before, strict=True):
        one.allow_tf32 = value
