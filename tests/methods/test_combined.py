"""A method with terms of others added: the sum of their formulas, whatever passes they share, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import kdiga
from kdiga.errors import InputError
from kdiga.experiments.trials import trial_method
from kdiga.methods import method_by_name, method_options, search_space
from kdiga.model_state import seeded
from kdiga.recipes.validate import recipe_from_dict
from kdiga.training.resume import identity_of
from kdiga.training.settings import TrainingSettings
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS, Counted, step_of, variant_of
from tests.methods.formulas import EPS, ce_, gradient, kl_, pgd_kl
from tests.methods.test_references import networks

RSLAD = {"name": "rslad", "steps": 3}
ADDED = {
    "kdiga": {"gradient_weight": 2.0, "ramp": 0.5},
    "tangent": {"gap_weight": 1.5},
    "igdm": {"difference_weight": 3.0},
}


def by_hand(S, T, x, y, progress):
    """RSLAD's objective and the three terms, each of the student's points run once, the clean one first after PGD."""
    target = T(x).detach()
    adv = pgd_kl(S, target, x, "linf")
    g_t, a = gradient(lambda b: ce_(T(b), y), x), x.clone().requires_grad_()
    s_adv, s = S(adv), S(a)
    (g_s,) = torch.autograd.grad(ce_(s, y).sum(), a, create_graph=True)
    alignment = (g_s - g_t).flatten(1).pow(2).sum(1).sqrt().mean()
    higher = (x + EPS["linf"] * (g_s.detach() - g_t).sign()).clip(0, 1)
    gap = ce_(S(higher), y) - ce_(s, y) - (g_t * (higher - x)).flatten(1).sum(1)
    difference = kl_(T(adv) - T(2 * x - adv), s_adv - S(2 * x - adv)).mean()
    total = 5 / 6 * kl_(target, s_adv).mean() + 1 / 6 * kl_(target, s).mean()
    return total + 2 * min(1, progress / 0.5) * alignment + 1.5 * gap.mean() + 3 * progress * difference


def test_terms_are_those_of_the_formulas():
    with seeded(8):
        images, labels = torch.rand(9, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (9,))
    (ours, _, teacher, _), (theirs, *_) = networks(), networks()
    method = method_by_name(RSLAD | {"with": ADDED})
    student, seen = Counted(ours), Counted(teacher)
    step = step_of(method, student, seen, (images, labels), progress=0.4, dtype=torch.float64)
    with seeded(6):
        objective = method(step)
    with seeded(6):
        expected = by_hand(theirs, copy.deepcopy(teacher), images, labels, 0.4)
    assert objective.total().item() == pytest.approx(expected.item(), abs=1e-10)
    names = [term.name for term in objective.terms]
    assert names == ["robust", "clean", "kdiga-gradient", "tangent-gap", "igdm-difference"]
    for loss in (objective.total(), expected):
        loss.backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-10, rtol=1e-10)
    for key, value in theirs.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[key], atol=1e-12), key
    # 3 steps, x, x_adv, x + delta*, x - d; the teacher at x, x_adv and x - d.
    assert student.passes.forwards == 7
    assert (seen.passes.forwards, seen.passes.backwards) == (3, 1)
    assert method.needs.student.forwards >= 7
    assert method.needs.teacher.forwards >= 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_added_to_every_method(variant, batch):
    """Its terms come last and train, or one line says why they cannot."""
    base, done, refused = variant_of(variant), 0, []
    for name in ("kdiga", "tangent", "igdm"):
        try:
            method = kdiga.methods.Combined(base, (method_by_name(name),))
        except InputError as error:
            refused += [str(error)]
            continue
        step = step_of(method, five_layers(1), five_layers(2).eval(), batch)
        terms = method(step).terms
        assert terms[-1].name.startswith(name)
        terms[-1].value.backward()
        assert method.info.name == f"{base.info.name}+{name}"
        assert name != "igdm" or step.adv_images is not None
        done += 1
    assert all("attacks nothing" in one or "of one score" in one for one in refused)
    assert done >= 1 or base.needs.gradient_of != "loss"


def test_in_recipes_searches_and_files():
    data = {"data": "digits", "student": "cnn-4", "teacher": "runs/robust"}
    recipe = recipe_from_dict(data | {"method": RSLAD | {"with": ADDED}})
    assert recipe.method == method_by_name(RSLAD | {"with": ADDED}) == pickle.loads(pickle.dumps(recipe.method))
    assert recipe_from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict()["method"]["with"]["tangent"]["gap_weight"] == 1.5
    identity = identity_of(recipe.method, recipe.threat, TrainingSettings(), None)
    assert identity["method"] == "rslad+kdiga+tangent+igdm"
    assert '"gap_weight": 1.5' in identity["method.with"]
    assert search_space(recipe.method) == search_space(recipe.method.base)
    assert trial_method(recipe.method, 1).base.robust_weight != recipe.method.robust_weight
    assert method_by_name(recipe.method, {"steps": 4}).steps == 4


def test_in_any_loop(batch):
    distiller = kdiga.Distiller(
        five_layers(1), five_layers(2), method=RSLAD | {"with": "tangent"}, total_steps=4, threat="linf 0.1"
    )
    output = distiller.output(*batch)
    assert list(output.terms) == ["robust", "clean", "tangent-gap"]
    output.loss.backward()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "rslad", "with": {"trades": {}}}, r"method to add 'trades'.*accepted: igdm, kdiga, tangent"),
        ({"name": "rslad", "with": ["kdiga"]}, "with was"),
        ({"name": "kd", "with": "igdm"}, "attacks nothing"),
        ({"name": "tangent", "steps": 3, "align_every": 2, "with": "igdm"}, "not every image and step"),
        ({"name": "tangent", "steps": 3, "align_share": 0.5, "with": "igdm"}, "not every image and step"),
        ({"name": "saad", "with": "kdiga"}, "of one score"),
        ({"name": "rslad", "with": {"kdiga": {"random_start": True}}}, "random_start was True"),
        ({"name": "rslad", "with": {"tangent": {"learn_at": "adv"}}}, "learn_at was 'adv'"),
    ],
)
def test_refused(method, message):
    with pytest.raises(InputError, match=message):
        method_by_name(method)
    data = {"data": "digits", "student": "cnn-4", "teacher": "runs/robust"}
    with pytest.raises(InputError, match=r"method\.with"):
        recipe_from_dict(data | {"method": method})


@pytest.mark.parametrize("base", ["kd", "rslad", "ard", "iad", "adaad", "dgad", "fair-ard", "absld"])
@pytest.mark.parametrize(("options", "gradients"), [({"align_every": 4}, 2), ({"align_share": 0.25}, 8), ({}, 8)])
def test_the_teachers_gradient_is_taken_only_where_it_is_used(base, options, gradients, batch):
    student, teacher = five_layers(1), Counted(five_layers(2).eval())
    inner = {"steps": 1, "inner_steps": 1}
    base_options = {name: value for name, value in inner.items() if name in method_options(method_by_name(base))}
    method = {"name": base, **base_options, "with": {"kdiga": options}}
    distiller = kdiga.Distiller(student, teacher, method=method, total_steps=8, threat="linf 0.1")
    alone = kdiga.Distiller(student, teacher, method={"name": base, **base_options}, total_steps=8, threat="linf 0.1")
    counts = []
    for one in (alone, distiller):
        before = teacher.backwards
        for _ in range(8):
            one(*batch)
        counts.append(teacher.backwards - before)
    assert counts[1] - counts[0] == gradients


def test_stored_signals_serve_what_they_can():
    assert not method_by_name({"name": "rslad", "with": "kdiga"}).needs.teacher_queries
    assert method_by_name({"name": "rslad", "with": "igdm"}).needs.teacher_queries
    assert method_by_name({"name": "pgd-at", "with": "kdiga"}).needs.teachers == 1
