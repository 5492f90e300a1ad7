"""What a training run adds to its steps, on every device: bf16 on the exact route, a teacher cache, resuming."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import kdiga
from kdiga.data import ImageSet, augmentation_by_name, feed_of
from kdiga.gradients.routes import Exact
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from tests.conftest import five_layers
from tests.devices.test_devices import DEVICES, THREAT, Waits, batch_on, waiting_as_error
from tests.distributed.work import configured
from tests.teachers.conftest import Filler


def with_group_norm():
    layers = (nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(4, 8), nn.GELU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def built_in(name, **options):
    return lambda: kdiga.load_model(name, in_channels=1, image_size=8, num_classes=10, **options)


STUDENTS = {
    "batch norm": built_in("resnet8", activation="silu"),
    "group norm": with_group_norm,
    "vit": built_in("vit-micro"),
}


def stepper_of(student, teacher, device, **settings):
    task = TrainingTask(student.to(device), [teacher], configured("kdiga"), THREAT)
    options = TrainingSettings(epochs=1, device=device, schedule="constant", **settings)
    stepper = Stepper(task, options, Exact(), steps=10)
    stepper.train_mode()
    return stepper


def weights(stepper):
    return torch.cat([one.detach().cpu().flatten() for one in stepper.parameters])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_step_in_bf16_is_near_that_in_float32(name, channels_last, device):
    gradients = []
    for where, precision in (("cpu", "fp32"), (device, "bf16")):
        with seeded(1):
            student = STUDENTS[name]()
        stepper = stepper_of(
            student, five_layers(2).eval(), where, precision=precision, channels_last=channels_last, optimizer="sgd"
        )
        stepper.take(batch_on(where), 5)
        gradients.append(torch.cat([one.grad.cpu().flatten() for one in stepper.parameters]))
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_with_a_teacher_cache_does_not_wait_for_the_device(device, tmp_path):
    """Neither does the feed."""
    with seeded(5):
        data = ImageSet(
            (torch.rand(120, 1, 8, 8) * 255).byte(), torch.arange(120) % 10, [str(one) for one in range(10)]
        )
    filler = Filler(five_layers(2).eval(), data, augment="crop-flip", device=device)
    stored = filler.fill(tmp_path)
    settings = {"batch_size": 12, "seed": 1, "augmentation": augmentation_by_name("crop-flip", 8), "views": 2}
    batches = feed_of(filler.train, device=torch.device(device), **settings).epoch(0)
    stepper = stepper_of(five_layers(1), stored, device, optimizer="sgd")
    stepper.take(next(batches), 0)
    stepper.take(next(batches), 1)
    with Waits() as waits:
        stepper.take(next(batches), 2)
    assert not waits.found
    with waiting_as_error(device):
        stepper.take(next(batches), 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_continues_on_another_device(there, optimizer, device):
    """From a CPU to the device, and from the device to a CPU."""
    start, end = ("cpu", device) if there else (device, "cpu")
    # Without batch norm, which leaves convolutions' biases gradients of rounding errors alone.
    settings = {"optimizer": optimizer, "lr": 0.01, "ema": 0.9, "accumulate": 2, "batch_size": 12}
    first, second = (
        stepper_of(five_layers(1, batch_norm=False), five_layers(2).eval(), where, **settings) for where in (start, end)
    )
    with seeded(3):
        for one in (first, second):
            one.streams.begin(3, 0)
        first.take(batch_on(start), 0)
        saved = io.BytesIO()
        torch.save([first.state(), first.own_state()], saved)
        saved.seek(0)
        state, own = torch.load(saved, map_location="cpu", weights_only=True)
        second.load_state(state)
        second.load_own_states([own])
        for one, where in ((first, start), (second, end)):
            one.take(batch_on(where), 1)
    assert torch.allclose(weights(first), weights(second), atol=2e-4, rtol=2e-3)
