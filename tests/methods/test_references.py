"""One full training step of each method against its formula written out, in float64, under both norms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from kdiga.gradients.routes import Exact
from kdiga.methods import available_methods
from kdiga.methods.context import StepClock, StepContext, StepModels, StepSettings
from kdiga.model_state import seeded
from kdiga.training.teacher_sources import teacher_source
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.methods import formulas
from tests.methods.formulas import EPS, ce_, kl_

# The middle of a training with two updates: what its first half left in the memory.
MEANS = {
    "sum of robust": formulas.SURVIVED,
    "sum of clean": 2 * formulas.SURVIVED,
    "sum of survived": formulas.SURVIVED,
}
AT_UPDATE = {
    "clock": StepClock(progress=0.5),
    "memory": MEANS | {"sum of examples": formulas.EXAMPLES, "updates": 0} | formulas.BEFORE,
}
# name of the formula: method, its options, and other arguments of the step
CASES = {
    "ce": ("ce", {}, {}),
    "kd": ("kd", {}, {}),
    "kdiga": ("kdiga", {"label_weight": 0.3, "teacher_weight": 0.7, "temperature": 3.0, "gradient_weight": 2.0}, {}),
    "kdiga_random_start": (
        "kdiga",
        {"label_weight": 0.3, "teacher_weight": 0.7, "temperature": 3.0, "gradient_weight": 2.0, "random_start": True},
        {},
    ),
    "kdiga_author": (
        "kdiga",
        {"convention": "author", "temperature": 2.0, "gradient_weight": 40.0},
        {"clock": StepClock(progress=0.0)},
    ),
    "kdiga_part": (
        "kdiga",
        {"gradient_weight": 2.0, "align_share": 1 / 3, "align_every": 3},
        {"clock": StepClock(number=6)},
    ),
    "kdiga_between": ("kdiga", {"align_every": 3}, {"clock": StepClock(number=7)}),
    "kdiga_ard": ("kdiga-ard", {"steps": 3, "temperature": 2.0, "gradient_weight": 1.5}, {}),
    "kdiga_ard_at_adv": ("kdiga-ard", {"steps": 3, "teacher_input": "clean", "align_at": "adv"}, {}),
    "igam": ("igam", {}, {}),
    "tangent": ("tangent", {"gap_weight": 1.5}, {}),
    "tangent_3": ("tangent", {"steps": 3}, {}),
    "tangent_flat": ("tangent", {"flat": True}, {}),
    "tangent_part": ("tangent", {"align_share": 1 / 3}, {}),
    "tangent_adv": ("tangent", {"learn_at": "adv", "gap_weight": 2.0}, {}),
    "pgd_at": ("pgd-at", {"steps": 4}, {}),
    "fast_at": ("fast-at", {}, {}),
    "gradalign": ("fast-at", {"start": "clean", "gradalign_weight": 0.7}, {}),
    "trades": ("trades", {"steps": 3}, {}),
    "ard": ("ard", {"steps": 3}, {}),
    "ard_labels": ("ard", {"steps": 3, "temperature": 5.0, "teacher_weight": 0.7, "label_weight": 0.3}, {}),
    "ard_tau1": ("ard", {"steps": 3, "definition": "tau1"}, {}),
    "ard_adv_target": ("ard", {"steps": 3, "definition": "adv-target"}, {}),
    "ard_kl_attack": ("ard", {"steps": 3, "definition": "kl-attack"}, {}),
    "rslad": ("rslad", {"steps": 3}, {}),
    "iad": ("iad", {"steps": 3, "temperature": 2.0, "label_weight": 0.2}, {"clock": StepClock(progress=0.3)}),
    "iad_before": ("iad", {"steps": 3, "temperature": 2.0, "label_weight": 0.2}, {"clock": StepClock(progress=0.29)}),
    "iad_ii": ("iad-ii", {"steps": 3, "temperature": 2.0}, {}),
    "adaad": ("adaad", {"steps": 3, "robust_weight": 0.9, "clean_weight": 0.1}, {}),
    "adaiad": ("adaiad", {"steps": 3}, {}),
    "igdm": ("igdm", {"steps": 3, "difference_weight": 20.0}, {"clock": StepClock(progress=0.5)}),
    "saad": ("saad", {"steps": 3, "difference_weight": 2.0, "clean_weight": 0.3}, {"clock": StepClock(progress=0.5)}),
    "mtard": ("mtard", {"steps": 3}, {"memory": {"first": (0.1, 0.3), "natural_weight": 0.5}}),
    "lbgat": ("lbgat", {"steps": 3, "robust_weight": 6.0}, {}),
    "peeraid": ("peeraid", {"steps": 3, "label_weight": 0.2}, {}),
    "kdiga_author_twice": (
        "kdiga",
        {"convention": "author", "temperature": 2.0, "gradient_weight": 40.0, "second_forward": True},
        {"clock": StepClock(progress=0.0)},
    ),
    "gradalign_detached": ("fast-at", {"start": "clean", "gradalign_weight": 0.7, "detach_first": True}, {}),
    "iad_ii_own_temperature": ("iad-ii", {"steps": 3, "temperature": 2.0, "self_temperature": 1.0}, {}),
    "peeraid_train_mode": ("peeraid", {"steps": 3, "target_mode": "train"}, {}),
    "saad_order_2": ("saad", {"steps": 3, "entropy_order": 2.0}, {"clock": StepClock(progress=0.0)}),
    "mart": ("mart", {"steps": 3, "robust_weight": 5.0}, {}),
    "dgad": ("dgad", {"steps": 3, "consistency_weight": 0.5}, {}),
    "fair_ard": ("fair-ard", {"steps": 3, "updates": 2}, AT_UPDATE),
    "fair_rslad": ("fair-ard", {"steps": 3, "updates": 2, "base": "rslad"}, AT_UPDATE),
    "absld": ("absld", {"steps": 3, "updates": 2}, AT_UPDATE),
    "b_mtard": (
        "b-mtard",
        {"steps": 3},
        {"memory": {"first": (0.1, 0.3), "natural_weight": 0.5, "temperatures": (1.5, 1.2)}},
    ),
}


def networks():
    """Student and guide in train mode, two teachers in eval mode; with batch norm whose statistics matter."""
    models = [five_layers(seed).double() for seed in (1, 4, 2, 3)]
    with torch.no_grad(), seeded(11):
        for model in models:
            for layer in model:
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
            model[-1].weight.mul_(4)  # confident enough for temperatures and trust to differ
    student, guide, teacher, second = models
    return student.train(), guide.train(), teacher.eval(), second.eval()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("case", CASES)
def test_total_and_updated_weights_equal_the_formula(case, norm):
    name, options, given = CASES[case]
    method = available_methods()[name](**options)
    needs = method.needs
    with seeded(8):
        images, labels = torch.rand(9, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (9,))
    ours, our_guide, teacher, second = networks()
    theirs, their_guide, *_ = networks()
    step = StepContext(
        Batch(images, labels, torch.arange(9)),
        StepModels(
            ours,
            teacher_source(our_guide if needs.trains_teacher else teacher, needs, first=True),
            teacher_source(second, needs, first=False),
            our_guide,
        ),
        StepSettings(ThreatModel(norm, EPS[norm]), Exact(), needs.student_gradient, needs.gradient_of),
        **copy.deepcopy(given),
    )
    with seeded(6):
        total = method(step).total()
    with seeded(6):
        formula = getattr(formulas, case)
        expected = formula(theirs, copy.deepcopy(teacher), copy.deepcopy(second), their_guide, images, labels, norm)
    assert total.item() == pytest.approx(expected.item(), abs=1e-9, rel=1e-9)
    for models, loss in (((ours, our_guide), total), ((theirs, their_guide), expected)):
        optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)
        loss.backward()
        optimizer.step()
    for mine, other in ((ours, theirs), (our_guide, their_guide)):
        for key, value in mine.state_dict().items():
            assert torch.allclose(value, other.state_dict()[key], atol=1e-8, rtol=1e-8), key


def test_every_method_has_a_formula():
    assert {name for name, _, _ in CASES.values()} == set(available_methods())


def test_references_are_not_the_library():
    """The re-derivations share no code with it: they agree with PyTorch's own losses."""
    logits, others, labels = torch.randn(5, 7), torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 1])
    assert torch.allclose(ce_(logits, labels), F.cross_entropy(logits, labels, reduction="none"), atol=1e-6)
    expected = F.kl_div(F.log_softmax(others, 1), F.softmax(logits, 1), reduction="none").sum(1)
    assert torch.allclose(kl_(logits, others), expected, atol=1e-6)
