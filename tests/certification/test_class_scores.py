"""What cannot be certified is refused, by every method."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from kdiga.certification import clever, interval_bounds, smooth
from kdiga.certification.class_scores import ClassScores, class_scores, other_classes
from kdiga.errors import InputError
from tests.conftest import five_layers

METHODS = (
    partial(clever, batches=5, batch_size=2, max_radius=0.1),
    partial(smooth, samples=20),
    partial(interval_bounds, eps=0.1),
)


class Of(nn.Module):
    """A model that is a function of images."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def broken(images: torch.Tensor, value: float) -> torch.Tensor:
    return images.flatten(1)[:, :10] * value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Of(lambda x: broken(x, float("nan"))), "not finite"),
        (Of(lambda x: x), "must be"),
        (Of(lambda x: x.flatten(1)[:, :1]), "num_classes at least 2"),
        (Of(lambda x: torch.ones(len(x), 10) * torch.arange(10)), "ignores its input"),
        (Of(lambda x: x.flatten(1)[:, :10] + torch.randn(len(x), 10)), "differently twice"),
        (Of(lambda x: x.flatten(1)[:, :5]), "5 classes"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10)), "statistics"),
    ],
)
def test_models(method, model, message, batch):
    images, _ = batch
    with pytest.raises(InputError, match=message):
        method(model, images, torch.full((12,), 7))


@pytest.mark.parametrize("method", METHODS)
def test_data(method, batch):
    images, labels = batch
    model = five_layers(1, activation=nn.ReLU)
    for given in (
        (images * 2, labels),
        (images - 0.1, labels),
        (images[0], labels[:1]),
        (images, labels + 5),
        (images, labels[:3]),
        (images[:0], labels[:0]),
        (images * float("nan"), labels),
    ):
        with pytest.raises(InputError):
            method(model, *given)


def test_one_image_is_enough_to_notice_a_constant_model(batch):
    images, labels = batch
    with pytest.raises(InputError, match="ignores"):
        class_scores(Of(lambda x: torch.ones(len(x), 10)), images[:1], labels[:1])


def test_margins_are_in_the_order_of_the_other_classes():
    answers = ClassScores(torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]), torch.tensor([2, 0]))
    assert answers.margins.tolist() == [[3.0, 2.0], [-1.0, -3.0]]
    assert answers.correct.tolist() == [True, False]


def test_many_images_are_asked_a_few_at_a_time_and_labels_may_be_of_any_integer_type():
    sizes = []

    def first_ten(images):
        sizes.append(len(images))
        return images.flatten(1)[:, :10]

    images = torch.rand(300, 1, 8, 8)
    found = class_scores(Of(first_ten), images, torch.full((300,), 3, dtype=torch.int32))
    assert sizes == [250, 50, 250, 1]
    assert torch.equal(found.logits, images.flatten(1)[:, :10])
    assert found.labels.dtype == torch.int64
    assert found.num_classes == 10
    with pytest.raises(InputError, match="differently twice"):
        class_scores(Of(lambda x: x.flatten(1)[:, :10] + 0.01 * torch.randn(len(x), 10)), images, found.labels)
    # What a matrix product in another order may differ by is no difference.
    class_scores(Of(lambda x: x.flatten(1)[:, :10] * (1 + 1e-5 * torch.rand(1))), images, found.labels)


def test_a_model_that_gives_one_answer_to_all_of_these_images_but_not_to_others_is_certified(batch):
    """Equal images have equal answers; only noise tells that from a model which ignores its input."""
    images, labels = batch
    class_scores(Of(lambda x: x.flatten(1)[:, :10]), images[:1].expand(12, -1, -1, -1), labels)


def test_an_answer_for_every_image():
    for function in (lambda x: x.flatten(1)[:1, :10], lambda x: x[:, 0]):
        with pytest.raises(InputError, match=r"must be \(batch, num_classes\)"):
            class_scores(Of(function), torch.rand(3, 1, 8, 8), torch.zeros(3).long())
    two = class_scores(Of(lambda x: x.flatten(1)[:, :2]), torch.rand(3, 1, 8, 8), torch.zeros(3).long())
    assert two.num_classes == 2
    with pytest.raises(InputError, match="data was empty"):
        class_scores(Of(lambda x: x.flatten(1)), torch.rand(0, 1, 8, 8), torch.zeros(0).long())


def test_other_classes_go_round():
    assert other_classes(torch.tensor([0, 2, 3]), 4).tolist() == [[1, 2, 3], [3, 0, 1], [0, 1, 2]]
