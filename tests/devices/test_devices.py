"""Steps, attacks and second derivatives on every device of this machine, against float64 on the CPU.

Where there is no GPU only the CPU's part runs. Pytest's last lines say how many tests ran on each device.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kdiga
from kdiga.attacks import PGD
from kdiga.gradients.routes import Exact
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS
from tests.devices.conftest import WITH_TF32
from tests.distributed.work import configured

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
THREAT = ThreatModel("linf", 0.1)
# Weights are balanced by both terms of each step, temperatures by two entropies.
READS = {"mtard": Counter(_local_scalar_dense=2), "b-mtard": Counter(_local_scalar_dense=4)}
RANDOM = (
    "fast-at",
    "kdiga-ard",
    "pgd-at",
    "trades",
    "ard",
    "rslad",
    "iad",
    "iad-ii",
    "adaad",
    "adaiad",
    "igdm",
    "saad",
    "mtard",
    "b-mtard",
    "mart",
    "dgad",
    "fair-ard",
    "absld",
    "tangent",
)  # or signs of gradients near zero
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim", "_unique2")


def task_on(device, variant, dtype):
    method = configured(variant)
    teachers = [five_layers(seed).to(dtype).eval() for seed in (2, 3)[: method.needs.teachers]]
    return TrainingTask(five_layers(1).to(device, dtype), [one.to(device) for one in teachers], method, THREAT)


def stepper_on(device, variant, dtype=torch.float32):
    settings = TrainingSettings(epochs=1, device=device, optimizer="sgd", lr=0.05, schedule="constant", grad_clip=1.0)
    stepper = Stepper(task_on(device, variant, dtype), settings, Exact(), steps=10)
    stepper.train_mode()
    return stepper


def batch_on(device, dtype=torch.float32):
    with seeded(5):
        images, labels = torch.rand(12, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (12,))
    return Batch(images.to(device, dtype), labels.to(device), torch.arange(12))


class Waits(TorchDispatchMode):
    """Counts operations whose result or size a program on a GPU has to wait for."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "index_put", "_index_put_impl_") else ()
        if name in WAITS or any(one is not None and one.dtype == torch.bool for one in indices):
            self.found[name] += 1
        return operation(*args, **(kwargs or {}))


@contextmanager
def waiting_as_error(device):
    """PyTorch's own check, on CUDA alone."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_does_not_wait_for_the_device(variant, device):
    """Between the checks at fixed steps no value is read: the processor may run ahead of the GPU."""
    stepper, batch = stepper_on(device, variant), batch_on(device)
    for number in range(2):  # what is made on first use
        stepper.take(batch, number)
    with Waits() as waits:
        stepper.take(batch, 2)
    assert waits.found == READS.get(variant, Counter())
    if variant not in READS:
        with waiting_as_error(device):
            stepper.take(batch, 3)


def test_waits_are_seen():
    with Waits() as waits:
        values = torch.arange(4.0)
        values[values > 1].sum().item()
    assert set(waits.found) == {"index", "_local_scalar_dense"}


def test_float32_is_not_tf32():
    assert not any(one.allow_tf32 for one in WITH_TF32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if not configured(name).needs.trains_teacher])
def test_a_step_is_that_of_the_cpu(variant, device):
    """Of the methods that draw no random number on the device."""
    method = configured(variant)
    if getattr(method, "random_start", False) or method.info.name in RANDOM:
        pytest.skip("draws random numbers on the device")
    states = []
    for where, dtype in ((device, torch.float32), ("cpu", torch.float64)):
        stepper = stepper_on(where, variant, dtype)
        with seeded(3):
            stepper.take(batch_on(where, dtype), 5)
        states.append({name: value.cpu().double() for name, value in stepper.student.state_dict().items()})
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=2e-4, rtol=2e-3), name


@pytest.mark.parametrize("device", DEVICES)
def test_an_attack_and_an_evaluation_are_those_of_the_cpu(device):
    batch = batch_on("cpu")
    model = five_layers(1).eval()
    attack = PGD(threat=THREAT, steps=5, start="clean", keep_best=True)

    def attacked(where):
        own, labels = copy.deepcopy(model).to(where), batch.labels.to(where)
        loss = torch.nn.CrossEntropyLoss(reduction="none")
        return attack(lambda images: loss(own(images), labels), batch.images.to(where)).cpu()

    assert (attacked(device) - attacked("cpu")).abs().max() < 0.05 + 1e-6  # at most some signs of a zero gradient
    found = kdiga.evaluate(
        copy.deepcopy(model).to(device), [(batch.images, batch.labels)], threat=THREAT, attacks=["clean", "pgd-5"]
    )
    assert set(found.results) == {"clean", "pgd-5"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", ["resnet8", "mobilenet-v2-035", "vit-micro"])
def test_fast_double_backward_is_that_of_float64(architecture, device):
    with seeded(1):
        model = kdiga.load_model(architecture).train(architecture != "mobilenet-v2-035")
        images = torch.rand(4, 3, 32, 32)

    def gradients(where, dtype):
        own, inputs = copy.deepcopy(model).to(where, dtype), images.to(where, dtype).requires_grad_()
        with kdiga.fast_double_backward():
            loss = own(inputs).logsumexp(1).sum()
            (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
            slope.square().sum().backward()
        return torch.cat([p.grad.double().flatten().cpu() for p in own.parameters() if p.grad is not None])

    exact, here = gradients("cpu", torch.float64), gradients(device, torch.float32)
    assert (here - exact).norm() < 2e-3 * exact.norm()
