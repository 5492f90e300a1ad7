"""Device and backward pass of a run do not depend on Accelerate's environment or on an earlier run."""

from __future__ import annotations

import pytest
import torch
from accelerate import PartialState

from kdiga.distributed import process_group
from kdiga.errors import InputError
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from tests.training.test_other_device import batch, stepper


@pytest.fixture
def on_cpu():
    """Accelerate's state of the process, as an earlier run on a CPU left it."""
    PartialState._reset_state()
    return PartialState(cpu=True)


def gradients():
    run = stepper()
    run.take(batch(), 0)
    return torch.cat([one.grad.flatten() for one in run.parameters])


@pytest.mark.parametrize("steps", ["1", "4"])
def test_accelerates_environment_changes_no_gradient(steps, monkeypatch):
    expected = gradients()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
    assert torch.equal(gradients(), expected)


@pytest.mark.usefixtures("on_cpu")
def test_a_run_on_a_cpu_leaves_the_gpu_to_the_next(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Runtime(TrainingSettings(epochs=1, device="cuda")).device.type == "cuda"
    assert Runtime(TrainingSettings(epochs=1, device="cpu")).device.type == "cpu"


@pytest.mark.usefixtures("on_cpu")
def test_processes_on_another_device_are_refused(monkeypatch):
    monkeypatch.setattr(process_group, "launched", lambda: True)
    assert process_group.device_of_process(torch.device("cpu")).type == "cpu"
    with pytest.raises(InputError, match="device was 'cuda' and the processes of this program compute on 'cpu'"):
        process_group.device_of_process(torch.device("cuda"))
