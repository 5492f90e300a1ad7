"""Several threads in the exact route: PyTorch's checkpoints and kernels are as before afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as checkpointing

from kdiga.gradients.double_backward import fast_double_backward, pytorch_double_backward
from kdiga.gradients.double_backward.checkpointing import _START

Context = Callable[[], AbstractContextManager[Any]]


def settings() -> list[Any]:
    cuda = torch.backends.cuda
    functions = [getattr(checkpointing, name, None) for name in (*_START, "CheckpointFunction")]
    return [*functions, cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]


def overlapping(context: Context, between: Callable[[], None] = lambda: None) -> None:
    """Enter a context in two threads so that the first leaves it while the second is inside."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with context():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second() -> None:
        first_in.wait(10)
        with context():
            second_in.set()
            first_out.wait(10)
            between()

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("context", [fast_double_backward, pytorch_double_backward])
def test_overlapping_threads_leave_pytorch_as_it_was(context):
    before = settings()
    overlapping(context)
    assert settings() == before


def test_the_second_thread_keeps_unfused_attention():
    found = []
    overlapping(pytorch_double_backward, lambda: found.append(torch.backends.cuda.flash_sdp_enabled()))
    assert found == [False]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_another_thread_are_pytorchs(reentrant):
    network, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU()), torch.rand(2, 1, 4, 4, requires_grad=True)
    names = list[str]()

    def plain() -> None:
        out = checkpointing.checkpoint(network, images, use_reentrant=reentrant)
        assert out is not None
        names.append(type(out.grad_fn).__name__)
        out.sum().backward()

    thread = threading.Thread(target=plain)
    with fast_double_backward():
        thread.start()
        thread.join()
    assert names == ["CheckpointFunctionBackward" if reentrant else "SiluBackward0"]
    assert images.grad is not None
