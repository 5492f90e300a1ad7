"""A state that was saved on another type of device: a run continues from it, on a CPU or on a GPU.

No GPU is needed: the states are those of a CPU, with the entries that a run on CUDA writes.
"""

from __future__ import annotations

import copy

import pytest
import torch

from kdiga.gradients.routes import Exact
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.distributed.work import configured

PHILOX = torch.zeros(16, dtype=torch.uint8)  # state of a generator on CUDA


def stepper(accumulate=1, **settings):
    method = configured("kd")
    task = TrainingTask(five_layers(1), [five_layers(2).eval()], method, ThreatModel("linf", 0.1))
    options = TrainingSettings(
        epochs=1, device="cpu", schedule="constant", batch_size=12, accumulate=accumulate, **settings
    )
    made = Stepper(task, options, Exact(), steps=10)
    made.train_mode()
    made.streams.begin(0, 0)
    return made


def batch():
    with seeded(5):
        return Batch(torch.rand(12, 1, 8, 8), torch.randint(0, 10, (12,)), torch.arange(12))


def weights(run):
    return torch.cat([one.detach().flatten() for one in run.parameters])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("saved", "present"), [(None, True), (True, None)])
def test_the_optimizer_has_the_kernels_of_its_device(saved, present, optimizer):
    first, second = stepper(optimizer=optimizer, ema=0.9), stepper(optimizer=optimizer, ema=0.9)
    for run, fused in ((first, saved), (second, present)):
        for group in run.optimizer.param_groups:
            group["fused"] = fused
    first.take(batch(), 0)
    second.load_state(copy.deepcopy(first.state()))
    for run in (first, second):
        run.take(batch(), 1)
    assert all(group["fused"] is present for group in second.optimizer.param_groups)
    assert torch.allclose(weights(first), weights(second), atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("saved", [1, 2])
def test_streams_of_cuda_begin_again_on_a_cpu(saved, accumulate):
    earlier, run, fresh = stepper(saved), stepper(accumulate), stepper(accumulate)
    own = copy.deepcopy(earlier.own_state())
    own["streams"]["process"]["cuda"] = PHILOX
    own["streams"]["draws"] = None if saved == 1 else PHILOX
    with seeded(1):
        run.load_own_states([own])
        assert torch.equal(torch.get_rng_state(), own["streams"]["process"]["cpu"])
    loaded, begun = run.streams.state(), fresh.streams.state()
    assert accumulate == 1 or torch.equal(loaded["draws"], begun["draws"])
    assert accumulate == 1 or torch.equal(loaded["own"]["cpu"], begun["own"]["cpu"])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("saved", [1, 2])
def test_streams_of_a_cpu_begin_again_on_cuda(saved, accumulate):
    own, run = stepper(saved).own_state(), stepper(accumulate)
    if accumulate > 1:
        torch.rand(7, generator=run.streams._shared)
    before = run.streams.state()["draws"]
    run.streams.device = torch.device("cuda")  # there is no generator for it here
    with seeded(1):
        run.load_own_states([own])
    assert accumulate == 1 or torch.equal(run.streams._shared.get_state(), before)
