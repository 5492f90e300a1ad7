"""A NaN somewhere is told of, by who brought it, before it costs anything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import DivergedError, InputError
from tests.training.test_loop import QUICK, small

NAN = float("nan")
METHODS = ("ce", "kd", "kdiga", "tangent", "pgd-at", "ard", "rslad")


def poisoned(seed: int) -> nn.Module:
    model = small(seed)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = NAN
    return model


class Late(nn.Module):
    """Says NaN of one image, once."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.inner, self.call, self.calls = small(2), call, 0

    def forward(self, images):
        self.calls += 1
        logits = self.inner(images)
        if self.calls == self.call:
            logits = logits * torch.ones_like(logits).index_put_(
                (torch.tensor([3]), torch.tensor([1])), torch.tensor(NAN)
            )
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_in_the_students_weights(method, stripes, tmp_path):
    teacher = None if kdiga.methods.method_by_name(method).needs.teachers == 0 else small(2)
    with pytest.raises(InputError, match="the student returned logits that are not finite"):
        kdiga.distill(poisoned(1), teacher, stripes, method=method, epochs=1, out=tmp_path, **QUICK)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("method", METHODS[1:4])
def test_in_a_teachers_weights(method, stripes):
    with pytest.raises(InputError, match="the teacher returned logits that are not finite"):
        kdiga.distill(small(1), poisoned(2), stripes, method=method, epochs=1, **QUICK)


def test_in_one_image(stripes):
    images = stripes.images.float() / 255
    images[13, 0, 2, 2] = NAN
    pair = (images, stripes.labels)
    with pytest.raises(InputError, match=r"images had pixels in \[nan, nan\]"):
        kdiga.distill(small(1), small(2), pair, method="kd", epochs=1, **QUICK)
    with pytest.raises(InputError, match=r"images had pixels in \[nan, nan\]"):
        kdiga.evaluate(small(1), [pair], attacks=["fgsm"])


def test_in_one_image_of_a_loader(stripes):
    images = stripes.images.float() / 255
    images[-1, 0, 2, 2] = NAN
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, stripes.labels), batch_size=40)
    with pytest.raises((InputError, DivergedError), match=r"pixels in \[nan, nan\]|not finite"):
        kdiga.distill(small(1), small(2), loader, method="kd", epochs=1, lr=1e-2)


@pytest.mark.parametrize("method", ["kd", "kdiga", "tangent"])
def test_in_one_signal_of_the_teacher(method, stripes, tmp_path):
    with pytest.raises(DivergedError, match=r"step .*not finite.*a signal of the teacher may not be"):
        kdiga.distill(small(1), Late(6), stripes, method=method, epochs=2, out=tmp_path, **QUICK)
    assert not list(tmp_path.glob("*.safetensors"))


def test_in_one_output_of_the_student(stripes):
    with pytest.raises(DivergedError, match="the terms 'label' and 'teacher' are not finite"):
        kdiga.distill(Late(4), small(2), stripes, method="kd", epochs=2, **QUICK)
