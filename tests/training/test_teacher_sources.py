"""Teachers in training: how many, stored or live, frozen or trained along; and what a run is charged for them."""

from __future__ import annotations

import copy

import pytest
import torch

import kdiga
from kdiga.errors import InputError
from kdiga.methods import available_methods
from kdiga.teachers import OnlineTeacher
from kdiga.training.pass_counter import PassCounter
from tests.training.test_loop import QUICK, THREAT, small


class Stored:
    """Signals of a teacher that is no longer here: it answers at the images of a batch only."""

    answers_queries = False

    def __init__(self, model, *, gradient):
        self.teach = OnlineTeacher(model, gradient)

    def __call__(self, batch):
        return self.teach(batch)

    def logits(self, batch):
        return self.teach.logits(batch)

    def at(self, images):
        raise AssertionError("asked")


QUERYING = [name for name, method in available_methods().items() if method().needs.teacher_queries]
STORABLE = [name for name, m in available_methods().items() if m().needs.teachers == 1 and name not in QUERYING]


@pytest.mark.parametrize("name", QUERYING)
def test_stored_signals_are_refused_where_the_teacher_is_asked(name, robust, stripes):
    stored = Stored(robust, gradient=True)
    with pytest.raises(InputError, match=f"'{name}' queries the teacher on perturbed images.*live model"):
        kdiga.distill(small(), stored, stripes, method=name, epochs=1, second_teacher=robust)


@pytest.mark.parametrize("name", [name for name in STORABLE if name != "lbgat"])
def test_stored_signals_equal_the_live_teacher(name, robust, stripes):
    gradient = available_methods()[name]().needs.teacher_gradient
    if name == "igam":
        pytest.skip("wants the gradient of another score, which a store would have to hold")
    settings = QUICK | {"method": name, "epochs": 2, "threat": THREAT}
    live = kdiga.distill(small(), robust, stripes, **settings)
    stored = kdiga.distill(small(), Stored(robust, gradient=gradient), stripes, **settings)
    assert all(torch.equal(value, stored.last_state[key]) for key, value in live.last_state.items())
    assert live.passes["teacher_forwards"] > 0
    assert stored.passes["teacher_forwards"] == 0


def test_options_decide_whether_the_teacher_is_asked(robust, stripes):
    stored = Stored(robust, gradient=True)
    settings = {"epochs": 1, "threat": THREAT, **QUICK}
    kdiga.distill(small(), stored, stripes, method=kdiga.methods.ard.ARD(steps=2), **settings)
    for method in (kdiga.methods.ard.ARD(definition="adv-target"), kdiga.methods.kdiga.KDIGA(random_start=True)):
        with pytest.raises(InputError, match="queries the teacher"):
            kdiga.distill(small(), stored, stripes, method=method, **settings)


def test_a_guide_must_be_a_model(robust, stripes):
    with pytest.raises(InputError, match="trains its teacher and was given stored signals"):
        kdiga.distill(small(), Stored(robust, gradient=False), stripes, method="lbgat", epochs=1)


def test_a_second_teacher_is_asked_for(robust, stripes):
    with pytest.raises(InputError, match="'iad-ii' needs a second teacher"):
        kdiga.distill(small(), robust, stripes, method="iad-ii", epochs=1)


@pytest.mark.parametrize("name", available_methods())
def test_a_run_is_charged_the_declared_passes(name, robust, stripes):
    """Counted over a whole run: every step costs what the method says, validation costs nothing."""
    method = available_methods()[name]()
    settings = QUICK | {"threat": THREAT, "second_teacher": robust}
    # One epoch is too few for some to leave chance level, which is not the question here.
    settings |= {"stop_at_chance": False, "on_warning": lambda _: None}
    result = kdiga.distill(small(), copy.deepcopy(robust), stripes, method=method, epochs=1, **settings)
    steps = 18  # 360 of the 400 images, 20 a batch
    counted = result.passes
    student, teacher = method.needs.student, method.needs.teacher
    begun = getattr(method, "begin", 0.0) == 0.0
    if begun:
        assert (counted["student_forwards"], counted["student_backwards"]) == (
            steps * student.forwards,
            steps * student.backwards,
        )
        assert (counted["teacher_forwards"], counted["teacher_backwards"]) == (
            steps * teacher.forwards,
            steps * teacher.backwards,
        )
    else:
        # Before its second term is switched on, a step costs less.
        assert (steps - 1) * student.forwards <= counted["student_forwards"] + steps <= steps * (student.forwards + 1)
        assert counted["student_forwards"] < steps * student.forwards


def test_counting_leaves_no_hook_behind(robust):
    counter = PassCounter(robust, [])
    with counter.counting():
        robust(torch.rand(2, 1, 8, 8)).sum().backward()
    robust.zero_grad(set_to_none=True)
    robust(torch.rand(2, 1, 8, 8))
    assert counter.totals["student_forwards"] == 1
    assert counter.totals["student_backwards"] == 1
    assert not robust._forward_hooks
