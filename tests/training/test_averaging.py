"""The average of epochs, warm-up and label smoothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdiga
from kdiga.data import feed_of
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact
from kdiga.methods import method_by_name
from kdiga.model_state import seeded
from kdiga.training import TrainingSettings
from kdiga.training.averaging import EpochAverage, MovingAverage, interpolated
from kdiga.training.optimization import build_optimizer, build_schedule
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS, objective_of, variant_of
from tests.training.test_loop import QUICK, THREAT


def with_batch_norm():
    with seeded(1):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 4)
        )


AVERAGED = QUICK | {"method": "ce", "epochs": 4, "threat": THREAT, "swa": 0.5, "validation": None}


def test_the_average_of_epochs_is_its_formula(stripes):
    """Epochs 2, 3, 4 end at 50, 75 and 100 %: the mean of their weights, statistics from all training images."""
    seen, student = [], with_batch_norm()
    steps = 400 // AVERAGED["batch_size"]

    def look(done, total):
        if done % steps == 0:
            seen.append({name: value.clone() for name, value in student.state_dict().items()})

    held = stripes.take(slice(40))
    result = kdiga.distill(student, None, stripes, on_step=look, **AVERAGED | {"validation": held})
    own = with_batch_norm().eval()
    own.load_state_dict({name: sum(one[name] for one in seen[1:]) / 3 for name in seen[0]})
    means, deviations = [], []
    settings = {"batch_size": AVERAGED["batch_size"], "seed": 0, "device": torch.device("cpu")}
    with torch.no_grad(), seeded(0, 3):
        for batch in feed_of(stripes, augmentation=kdiga.data.augmentation_by_name("none", 8), **settings).epoch(3):
            features = own[0](batch.images)
            means.append(features.mean((0, 2, 3)))
            deviations.append(features.var((0, 2, 3)))
    state = own.state_dict() | {"1.running_mean": sum(means) / steps, "1.running_var": sum(deviations) / steps}
    for name, value in result.last_state.items():
        if "num_batches" not in name:
            assert torch.allclose(value, state[name], atol=1e-5), name
    assert result.passes["student_forwards"] == steps * (4 + 2)  # a pass of the images after epochs 3 and 4
    own.load_state_dict(result.last_state)
    assert kdiga.evaluate(own, held.batches(), eps=0.1, attacks=["clean"])["clean"] == result.history[-1].clean


@pytest.mark.parametrize("moved", [False, True])
def test_interpolated_weights_and_statistics(stripes, moved):
    """Weights are on the line; statistics that training changed are those of the images at these weights."""
    start, trained = with_batch_norm(), with_batch_norm()
    with torch.no_grad(), seeded(3):
        for value in trained.parameters():
            value.add_(torch.randn_like(value))
        if moved:
            trained[1].running_mean += 1
        trained[1].num_batches_tracked += 7
    images = list(stripes.take(slice(60)).batches(30))
    between = interpolated(start.train(), trained, 0.3, iter([one for one, _ in images]))
    assert start.training
    for name, value in between.named_parameters():
        expected = 0.7 * dict(start.named_parameters())[name] + 0.3 * dict(trained.named_parameters())[name]
        assert torch.allclose(value, expected, atol=1e-6), name
    features = [between[0](one) for one, _ in images]
    mean = sum(one.mean((0, 2, 3)) for one in features) / 2
    assert torch.allclose(between[1].running_mean, mean if moved else start[1].running_mean, atol=1e-5)
    assert between[1].momentum == start[1].momentum
    assert not any(module.training for module in between.modules())


def test_a_tied_weight_is_interpolated_once():
    def tied(value):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        nn.init.constant_(model[0].weight, value)
        return model

    between = interpolated(tied(1.0), tied(2.0), 0.5, ())
    assert torch.equal(between[0].weight, torch.full((3, 3), 1.5))
    assert between[1].weight is between[0].weight


def test_a_tied_weight_is_averaged_once_a_step():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(3, 3, bias=False) for _ in range(3))
            self.second.weight = self.first.weight
            self.register_buffer("count", torch.tensor(0))

    student = Tied()
    for parameter in student.parameters():
        nn.init.zeros_(parameter)
    average = MovingAverage(student, 0.9)
    for parameter in student.parameters():
        nn.init.ones_(parameter)
    student.count += 7
    average.update(student, step=201)
    assert average.module.first.weight is average.module.second.weight
    assert average.module.count == 7
    for parameter in average.module.parameters():
        assert torch.allclose(parameter, torch.full_like(parameter, 0.1))


def test_an_average_of_epochs_resumes(stripes, tmp_path):
    whole = kdiga.distill(with_batch_norm(), None, stripes, **AVERAGED)

    def stop(done, total):
        if done == total - 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kdiga.distill(with_batch_norm(), None, stripes, out=tmp_path, on_step=stop, **AVERAGED)
    resumed = kdiga.distill(with_batch_norm(), None, stripes, out=tmp_path, resume=True, **AVERAGED)
    assert all(torch.equal(value, resumed.last_state[name]) for name, value in whole.last_state.items())
    assert all(torch.equal(value, resumed.best_state[name]) for name, value in whole.best_state.items())


@pytest.mark.parametrize(("begin", "epochs", "averaged"), [(0.0, 3, 3), (0.7, 10, 4), (0.75, 4, 2), (0.99, 5, 1)])
def test_first_averaged_epoch(begin, epochs, averaged):
    student = nn.Linear(1, 1, bias=False).double()
    average = EpochAverage(student, begin, epochs)
    for epoch in range(epochs):
        with torch.no_grad():
            student.weight.fill_(epoch)
        average.add(student, epoch)
        if epoch < epochs - averaged:
            assert average.module.weight.item() == epoch
    assert average.module.weight.item() == pytest.approx(sum(range(epochs - averaged, epochs)) / averaged)


def rates(schedule, steps=20, **settings):
    settings = TrainingSettings(optimizer="sgd", lr=1.0, schedule=schedule, **settings)
    optimizer = build_optimizer([nn.Linear(1, 1)], settings)
    steering, found = build_schedule(optimizer, settings, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steering.step()
    return found, optimizer.param_groups[0]["lr"]


def test_warm_up():
    """A linear rise over a fifth of 20 steps, then each schedule's own values."""
    rise = [0.2, 0.4, 0.6, 0.8]
    found, end = rates("cosine", warmup=0.2)
    assert found == pytest.approx([*rise, *(0.5 + 0.5 * math.cos(math.pi * n / 16) for n in range(16))])
    assert end == pytest.approx(0)
    found, _ = rates("multi-step", warmup=0.2, milestones=(0.5, 0.75))
    assert found == pytest.approx([*rise, *[1.0] * 6, *[0.1] * 5, *[0.01] * 5])
    assert rates("constant", warmup=0.2)[0] == pytest.approx([*rise, *[1.0] * 16])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 0.1}, "one-cycle, which warms up"),
        ({"warmup": 1.0, "schedule": "cosine"}, r"warmup was 1.0; it is a share"),
        ({"swa": -0.1}, "swa was -0.1"),
        ({"swa": 0.5, "ema": 0.9}, "one average"),
        ({"awp": -1.0}, "awp was -1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing was 1.0"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_label_smoothing_changes_the_terms_of_methods_with_a_label_loss(variant, batch):
    """A method declares whether it has one, and is refused with smoothing if it has none."""
    method = variant_of(variant)
    plain, smooth = (
        objective_of(method, five_layers(1), five_layers(2).eval(), batch, label_smoothing=share)
        for share in (0.0, 0.2)
    )
    assert (plain.total() != smooth.total()) == method.needs.label_loss
    if not method.needs.label_loss:
        teachers = {"teacher": five_layers(2), "second_teacher": five_layers(3)}
        with pytest.raises(InputError, match="has no label loss"):
            kdiga.Distiller(five_layers(1), method=method, total_steps=1, label_smoothing=0.1, **teachers)


def test_label_smoothing_is_its_formula(batch):
    """In labels alone: the attack of PGD-AT and the gradients of KDIGA are those without it."""
    images, labels = batch
    student = kdiga.load_model("cnn-4", num_classes=10, in_channels=1, image_size=8).double()
    settings = TrainingSettings(label_smoothing=0.3, device="cpu", batch_size=12, channels_last=False)
    stepper = Stepper(TrainingTask(student, [], method_by_name("ce"), THREAT), settings, Exact(), steps=1)
    before = student(images.double())
    (term,) = stepper.take(Batch(images.double(), labels, torch.arange(12)), 0).terms
    targets = 0.7 * F.one_hot(labels, 10).double() + 0.03
    assert term.value.item() == pytest.approx(-(targets * F.log_softmax(before, 1)).sum(1).mean().item(), abs=1e-10)
    for name in ("kdiga", "tangent"):
        both = [
            objective_of(name, five_layers(1), five_layers(2).eval(), batch, label_smoothing=share).terms
            for share in (0.0, 0.3)
        ]
        assert [one.value != other.value for one, other in zip(*both, strict=True)] == [True, False, False]
