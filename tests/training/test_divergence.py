"""The guard against collapse: it ends what learns nothing, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kdiga
from kdiga.data import ImageSet
from kdiga.training.divergence import CollapsedError, better_than_guessing, describe_collapse, loss_falls
from kdiga.training.result import EpochRecord
from kdiga.training.settings import TrainingSettings
from kdiga.training.validation import Scores, Validator, stratified
from kdiga.types import ThreatModel


def scores(*by_class):
    right, count = map(sum, zip(*by_class, strict=True))
    return Scores(right / count, 0.0, count, by_class)


@pytest.mark.parametrize(
    ("by_class", "better"),
    [
        (((54, 54), (6, 6)), True),  # perfect, where accuracy cannot exceed the largest share by 3 deviations
        (((54, 54), (0, 6)), False),  # always the largest class
        (((1, 1), (0, 0)), True),  # one example shows nothing
        (((10, 15), (11, 15)), True),  # 70 % of 30, two classes
        (((8, 15), (7, 15)), False),
        (((0, 10),) * 9 + ((10, 10),), False),
        (((2, 10),) * 10, True),
    ],
)
def test_better_than_guessing(by_class, better):
    assert better_than_guessing(scores(*by_class)) == better


def record(epoch, **terms):
    return EpochRecord(epoch, 0.1, terms, dict.fromkeys(terms, 1.0), None, None, 1.0)


@pytest.mark.parametrize(("label", "falls"), [(1.3, True), (1.79, False), (2.0, False)])
def test_the_labels_term_falls_from_halfway_back(label, falls):
    history = [record(0, label=9.0, gradient=1.0), record(1, label=1.8, gradient=1.0)]
    assert loss_falls({"label": label, "gradient": 99.0}, {"label": 1.0, "gradient": 1.0}, history) == falls
    assert not loss_falls({"label": 0.1}, {"label": 1.0}, [])


def test_advice_fits_the_cause():
    weights = {"label": 1.0, "gradient": 5.0}
    several = describe_collapse(scores((1, 2), (1, 2)), 3, 9000, terms={"label": 1.0, "gradient": 1.0}, weights=weights)
    assert "heaviest term is 'gradient'" in several
    assert "lower its weight" in several
    assert "steps" not in several
    single = describe_collapse(scores((1, 2), (1, 2)), 3, 195, terms={"adversarial": 1.6}, weights={"adversarial": 1.0})
    assert "lower its weight" not in single
    assert "only 195 steps" in single


class Fixed(nn.Module):
    """Always the first class, with a gradient."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([2.0, 0.0]))

    def forward(self, images):
        return self.bias.expand(len(images), 2) + 0 * images.flatten(1).sum(1, keepdim=True)


def constant_run(**options):
    images, labels = torch.rand(80, 1, 4, 4), torch.arange(80) % 2
    settings = {"batch_size": 20, "lr": 1e-9, "validation_steps": 1, "epochs": 4, "method": "ce"}
    return kdiga.distill(Fixed(), None, (images, labels), **(settings | options))


def test_a_run_that_learns_nothing_ends_with_its_weights():
    with pytest.raises(kdiga.DivergedError, match="no better than guessing") as caught:
        constant_run()
    assert isinstance(caught.value, CollapsedError)
    assert set(caught.value.result.best_state) == {"bias"}


def test_the_guard_can_be_turned_off():
    with pytest.warns(kdiga.KdigaWarning, match="no better than guessing"):
        result = constant_run(stop_at_chance=False)
    assert len(result.history) == 4
    assert [one["name"] for one in result.warnings] == ["no-better-than-guessing"]


def test_few_positive_examples_train_to_the_end():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(200) % 10 == 0).long()
    images = torch.rand(200, 1, 4, 4, generator=generator) / 2 + labels.view(-1, 1, 1, 1) / 2
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    result = kdiga.distill(
        student,
        None,
        (images, labels),
        method="ce",
        epochs=30,
        lr=0.1,
        batch_size=20,
        validation_steps=1,
        threat=ThreatModel("linf", 0.01),
        select="clean",
    )
    assert result.history[-1].clean == 1.0


@pytest.mark.parametrize("count", [10, 64, 100])
def test_a_part_of_the_validation_images_has_all_classes(count):
    labels = torch.arange(1000) // 100  # sorted by class
    rows = stratified(labels, count)
    assert len(rows.unique()) == count
    counts = labels[rows].bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    assert labels[rows[:50]].bincount(minlength=10).min() >= min(5, count // 10)


def test_the_check_looks_at_all_classes_of_sorted_images():
    data = ImageSet(torch.rand(300, 1, 2, 2), torch.arange(300) // 30, list("abcdefghij"))
    validator = Validator.of(data, ThreatModel("linf", 0.1), TrainingSettings(validation_examples=50))
    assert validator.data.labels.bincount().tolist() == [5] * 10
    small = Validator.of(data.take(slice(0, 40)), ThreatModel("linf", 0.1), TrainingSettings(validation_examples=50))
    assert torch.equal(small.data.labels, data.labels[:40])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_decay", -1.0),
        ("weight_decay", float("nan")),
        ("momentum", -1.0),
        ("momentum", 2.0),
        ("grad_clip", -5.0),
        ("grad_clip", float("nan")),
        ("seed", -1),
        ("seed", 2**70),
        ("lr", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(kdiga.InputError, match=f"^{name} was "):
        TrainingSettings(**{name: value})
