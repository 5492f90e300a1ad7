"""What every registered method must satisfy; a new one is covered unasked."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import nn

from kdiga.errors import InputError
from kdiga.gradients.routes import Exact, FiniteDifference
from kdiga.methods import Passes, available_methods, search_space
from kdiga.methods.context import StepClock, StepContext, StepModels, StepSettings
from kdiga.methods.kdiga import RAMP
from kdiga.model_state import seeded
from kdiga.recipes.validate import recipe_from_dict
from kdiga.teachers import OnlineTeacher
from kdiga.training.teacher_sources import teacher_source
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers

METHODS = available_methods()
every_method = pytest.mark.parametrize("name", METHODS)

# Configurations whose needs differ from the default's.
VARIANTS = {
    **{name: (name, {}) for name in METHODS},
    "kdiga-rs": ("kdiga", {"random_start": True}),
    "kdiga-author": ("kdiga", {"convention": "author"}),
    "kdiga-of-probability": ("kdiga", {"gradient_of": "probability"}),
    "kdiga-ard-clean": ("kdiga-ard", {"teacher_input": "clean"}),
    "kdiga-ard-at-adv": ("kdiga-ard", {"align_at": "adv"}),
    "gradalign": ("fast-at", {"start": "clean", "gradalign_weight": 0.2}),
    "ard-1": ("ard", {"steps": 1, "label_weight": 0.5}),
    "ard-tau1": ("ard", {"definition": "tau1"}),
    "ard-adv-target": ("ard", {"definition": "adv-target"}),
    "ard-kl-attack": ("ard", {"definition": "kl-attack"}),
    "adaad-clean": ("adaad", {"clean_weight": 0.5}),
    "saad-clean": ("saad", {"clean_weight": 0.5}),
    "lbgat-trades": ("lbgat", {"robust_weight": 6.0}),
    "tangent-3": ("tangent", {"steps": 3}),
    "tangent-flat": ("tangent", {"flat": True}),
    "tangent-adv": ("tangent", {"learn_at": "adv"}),
    "tangent-part": ("tangent", {"align_share": 0.5}),
    "kdiga-part": ("kdiga", {"align_share": 0.5}),
    "kdiga-author-twice": ("kdiga", {"convention": "author", "second_forward": True, "gradient_weight": 2.0}),
    "gradalign-detached": ("fast-at", {"start": "clean", "gradalign_weight": 0.3, "detach_first": True}),
    "peeraid-train": ("peeraid", {"target_mode": "train"}),
    "fair-rslad": ("fair-ard", {"base": "rslad"}),
    "kdiga-every-2": ("kdiga", {"align_every": 2}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


class Counted(nn.Module):
    """Counts forward passes, apart in train and in eval mode, and backward passes through each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.in_train, self.in_eval, self.backwards = model, 0, 0, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.in_train += self.training
        self.in_eval += not self.training
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, _gradient: torch.Tensor) -> None:
        self.backwards += 1

    @property
    def passes(self) -> Passes:
        return Passes(self.in_train + self.in_eval, self.backwards)


class StoredTeacher:
    """What a teacher said at the clean images, and nothing else."""

    answers_queries = False

    def __init__(self, teacher, needs):
        self.teach = OnlineTeacher(teacher, needs.teacher_gradient, needs.gradient_of)

    def __call__(self, batch):
        return self.teach(batch)

    def logits(self, batch):
        return self.teach.logits(batch)

    def at(self, images):
        raise AssertionError("asked at images of the method's making")


def step_of(
    method,
    student,
    teacher,
    batch,
    *,
    threat=None,
    route=None,
    progress=1.0,
    dtype=torch.float32,
    memory=None,
    second=None,
    source=None,
    **modes,
):
    needs = method.needs
    images, labels = batch
    if needs.trains_teacher:
        teacher.train()
    return StepContext(
        Batch(images.to(dtype), labels, torch.arange(len(labels))),
        StepModels(
            student,
            source or (teacher_source(teacher, needs, first=True) if needs.teachers else None),
            teacher_source(second or five_layers(3).to(dtype).eval(), needs, first=False),
            teacher if needs.trains_teacher else None,
        ),
        StepSettings(
            threat or ThreatModel("linf", 0.1), route or Exact(), needs.student_gradient, needs.gradient_of, **modes
        ),
        StepClock(progress),
        {} if memory is None else memory,
    )


def variant_of(variant):
    name, options = VARIANTS[variant]
    return METHODS[name](**options)


def values(objective):
    return {term.name: term.value.detach() for term in objective.terms}


def objective_of(name, student, teacher, batch, **options):
    method = METHODS[name]() if isinstance(name, str) else name
    with seeded(3):
        return method(step_of(method, student, teacher, batch, **options))


@every_method
def test_is_a_frozen_dataclass_that_says_what_it_is(name):
    method = METHODS[name]
    assert is_dataclass(method)
    assert method.__dataclass_params__.frozen
    assert method.info.name == name
    assert len(method.info.paper) > 5
    assert method.__doc__


@every_variant
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_terms_are_finite_scalars(variant, norm, student, teacher, batch):
    objective = objective_of(variant_of(variant), student, teacher, batch, threat=ThreatModel(norm, 0.1))
    for term in objective.terms:
        assert term.value.shape == ()
        assert torch.isfinite(term.value)
        assert term.weight >= 0
    assert len({term.name for term in objective.terms}) == len(objective.terms)


@every_variant
@pytest.mark.parametrize(("channels", "size", "classes"), [(3, 5, 2), (1, 12, 100)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_any_image_size_and_class_count(variant, channels, size, classes, norm):
    def network(seed):
        with seeded(seed):
            return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 9), nn.SiLU(), nn.Linear(9, classes))

    with seeded(2):
        some = torch.rand(4, channels, size, size), torch.randint(0, classes, (4,))
    method = variant_of(variant)
    objective = objective_of(
        method, network(1), network(2), some, threat=ThreatModel(norm, 0.3), second=network(3), progress=0.9
    )
    assert torch.isfinite(objective.total())


@every_variant
@pytest.mark.parametrize("route", [Exact(), FiniteDifference()], ids=["exact", "finite-difference"])
def test_gradient_reaches_every_parameter(variant, route, student, teacher, batch):
    objective_of(variant_of(variant), student, teacher, batch, route=route).total().backward()
    for key, parameter in student.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@every_variant
def test_teacher_is_untouched(variant, student, teacher, batch):
    """Weights, statistics, mode and gradients of every teacher that is not trained along."""
    method = variant_of(variant)
    needs = method.needs
    if not needs.teachers or needs.trains_teacher:
        pytest.skip("has no teacher, or trains it")
    second = five_layers(3)
    for one in (teacher, second):
        one.train()
        one[1].eval()
    before = [(one, copy.deepcopy(one.state_dict()), [m.training for m in one.modules()]) for one in (teacher, second)]
    total = objective_of(method, student, teacher, batch, second=second).total()
    total.backward(inputs=list(student.parameters()))
    for one, state, modes in before:
        assert [module.training for module in one.modules()] == modes
        assert all(parameter.grad is None and parameter.requires_grad for parameter in one.parameters())
        for key, value in one.state_dict().items():
            assert torch.equal(value, state[key]), key


@every_variant
def test_the_loss_has_no_graph_to_a_teacher(variant, student, teacher, batch):
    """A plain backward leaves no gradient on a frozen teacher's parameters, and some on a trained one's."""
    method = variant_of(variant)
    if not method.needs.teachers:
        pytest.skip("has no teacher")
    objective_of(method, student, teacher, batch).total().backward()
    reached = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in teacher.parameters()]
    assert all(reached) if method.needs.trains_teacher else not any(reached)


@every_method
def test_teacher_is_heard_in_eval_mode(name, student, teacher, batch):
    """A teacher left in train mode by its owner gives the same terms."""
    needs = METHODS[name]().needs
    if not needs.teachers or needs.trains_teacher:
        pytest.skip("has no teacher, or trains it")
    one = values(objective_of(name, copy.deepcopy(student), teacher.eval(), batch))
    two = values(objective_of(name, copy.deepcopy(student), teacher.train(), batch))
    assert one == two


@every_variant
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_passes_are_those_declared(variant, norm, student, teacher, batch):
    """No pass more than the formula needs, of the student or of any teacher; batch norm moves as declared."""
    method = variant_of(variant)
    needs = method.needs
    ours, theirs, second = Counted(student), Counted(teacher.eval()), Counted(five_layers(3).eval())
    theirs.train(needs.trains_teacher)
    step = step_of(method, ours, theirs, batch, second=second, threat=ThreatModel(norm, 0.1))
    method(step).total().backward()
    assert all(module.training for module in ours.modules())
    assert ours.passes == needs.student
    both = Passes(theirs.passes.forwards + second.passes.forwards, theirs.passes.backwards + second.passes.backwards)
    assert both == needs.teacher
    assert ours.in_train == needs.train_forwards + variant.endswith("-part")  # a part's own pass moves none
    assert int(student[1].num_batches_tracked) == needs.train_forwards
    assert not second.passes.forwards or needs.teachers == 2


@every_variant
def test_asks_at_other_images_only_if_it_says_so(variant, student, teacher, batch):
    """Stored signals serve every method that does not declare queries."""
    method = variant_of(variant)
    needs = method.needs
    if not needs.teachers or needs.trains_teacher or needs.teachers == 2:
        pytest.skip("needs live models")
    seen = []

    class Asked(StoredTeacher):
        def __call__(self, signals):
            seen.append(not torch.equal(signals.images, batch[0][:: len(batch[0]) // len(signals.images)]))
            return super().__call__(signals)

        def logits(self, signals):
            seen.append(not torch.equal(signals.images, batch[0]))
            return super().logits(signals)

        def at(self, images):
            seen.append(not torch.equal(images, batch[0]))
            return self.teach.at(images)

    objective_of(method, student, teacher, batch, source=Asked(teacher, needs))
    assert any(seen) == needs.teacher_queries


@every_method
def test_finite_difference_route_moves_no_further_statistics(name, student, teacher, batch):
    objective_of(name, student, teacher, batch, route=FiniteDifference()).total().backward()
    assert int(student[1].num_batches_tracked) == METHODS[name]().needs.train_forwards


@every_method
def test_same_seed_same_terms(name, batch):
    one, two = (values(objective_of(name, five_layers(1), five_layers(2).eval(), batch)) for _ in range(2))
    assert one == two


# Random starts differ when a batch is repeated; SAAD weighs an example by the others of its batch, as published.
COUPLED = ("saad", "kdiga-rs", "kdiga-author", "fast-at", "gradalign")


@every_variant
def test_coefficients_do_not_depend_on_the_batch_size(variant, teacher, batch, monkeypatch):
    """Repeating the batch leaves every term as it is. (No batch norm, and starts at the clean image.)"""
    if variant.startswith(COUPLED):
        pytest.skip("draws at random in its own way, weighs examples by their batch, or keeps the author's units")
    monkeypatch.setattr("kdiga.attacks.pgd.PGD._start", lambda self, images: images + 0.01)
    images, labels = batch
    twice = images.repeat(2, 1, 1, 1), labels.repeat(2)
    teacher, method = five_layers(2, batch_norm=False).eval(), variant_of(variant)
    one, two = (
        values(method(step_of(method, five_layers(1, batch_norm=False), teacher, some, second=teacher)))
        for some in (batch, twice)
    )
    for key, value in one.items():
        assert torch.isclose(value, two[key], rtol=1e-4, atol=1e-7), key


# What earlier steps left: at the first step these methods are ARD, RSLAD and MTARD.
LATER = {
    "fair-ard": {"weights": torch.linspace(1, 2, 10)},
    "fair-rslad": {"weights": torch.linspace(1, 2, 10)},
    "absld": {"robust": torch.linspace(1, 2, 10).double()},
    "b-mtard": {"temperatures": (2.0, 1.5)},
}


def test_no_two_variants_are_the_same(batch):
    """Every name runs its own code: no two give the same sum on a random batch."""
    totals = {}
    for variant in VARIANTS:
        given = {"progress": 0.7, "memory": dict(LATER.get(variant, {}))}
        objective = objective_of(variant_of(variant), five_layers(1), five_layers(2).eval(), batch, **given)
        total = round(float(objective.total().detach()), 6)
        assert total not in totals, f"{variant} and {totals.get(total)} give {total}"
        totals[total] = variant


@every_variant
@pytest.mark.parametrize("attack", ["eval", "train"])
@pytest.mark.parametrize("alignment", ["eval", "train"])
def test_batch_norm_modes(variant, attack, alignment, student, teacher, batch):
    """In every combination: the student's mode is left as found, and each mode is really taken."""
    method = variant_of(variant)
    before = int(student[1].num_batches_tracked)
    counted = Counted(student)
    step = step_of(method, counted, teacher, batch, attack_batch_norm=attack, alignment_batch_norm=alignment)
    objective = method(step)
    assert torch.isfinite(objective.total())
    assert all(module.training for module in counted.modules())
    if alignment == "train" and attack == "eval":
        assert int(student[1].num_batches_tracked) - before == method.needs.train_forwards
    attacked = counted.in_eval > 0
    if alignment == "train":
        steps = method.needs.student.forwards - method.needs.train_forwards - variant.endswith("-part")
        assert attacked == (steps > 0 and attack == "eval")
    else:
        aligns = method.needs.student_gradient != "none" or "tangent" in variant
        assert attacked == (
            aligns or (method.needs.student.forwards > method.needs.train_forwards and attack == "eval")
        )


@every_variant
def test_attacks_in_train_mode_move_no_statistics(variant, student, teacher, batch):
    method = variant_of(variant)
    if method.needs.student.forwards == method.needs.train_forwards:
        pytest.skip("attacks nothing")
    step = step_of(method, student, teacher, batch, attack_batch_norm="train")
    state = copy.deepcopy(student.state_dict())
    step.attack_loss(steps=2)
    for key, value in student.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, state[key]), key


@every_method
def test_configuration_round_trip(name):
    """Every option survives the way through a recipe."""
    method = METHODS[name]()
    changed = replace(
        method,
        **{
            field.name: getattr(method, field.name) + 1
            for field in fields(method)
            if type(getattr(method, field.name)) in (int, float) and field.name not in ("ramp", "begin", "align_share")
        },
    )
    data = {"name": name} | {field.name: getattr(changed, field.name) for field in fields(changed)}
    models = {"student": "cnn-4", "teacher": "runs/robust", "second_teacher": "runs/natural"}
    recipe = recipe_from_dict({"data": "digits", "method": data} | models)
    assert recipe.method == changed
    assert recipe_from_dict(recipe.to_dict()) == recipe


@every_method
def test_float64(name, batch):
    """In float64 nothing falls back to float32 on the way."""
    student, teacher = five_layers(1).double(), five_layers(2).double().eval()
    images, labels = batch
    objective = objective_of(name, student, teacher, (images.double(), labels), dtype=torch.float64)
    assert objective.total().dtype == torch.float64


@every_method
def test_ramp_starts_at_nothing(name, student, teacher, batch):
    """A method with a ramp gives its coefficient no weight at the first step."""
    method = METHODS[name]()
    if not hasattr(method, "ramp"):
        pytest.skip("has no ramp")
    share = RAMP if method.ramp is None else method.ramp
    first, half, full = (
        method(step_of(method, student, teacher, batch, progress=progress)).terms[-1]
        for progress in (0.0, share / 2, share)
    )
    assert first.weight == 0
    assert half.weight == pytest.approx(full.weight / 2)
    assert full.weight > 0


@every_method
def test_out_of_range_options_are_refused(name):
    """Each by its name, when the method is configured and not when training meets it."""
    method = METHODS[name]()
    bad = {"temperature": 0.0, "steps": 0, "step_size": -0.1, "ramp": 1.5, "begin": -0.1}
    for field in fields(method):
        value = -1.0 if field.name.endswith("_weight") else bad.get(field.name)
        if value is not None:
            with pytest.raises(InputError, match=field.name):
                replace(method, **{field.name: value})


@every_method
def test_search_space_holds_the_default(name):
    """What is tuned starts inside its range, and an option that is off is not tuned."""
    method = METHODS[name]()
    for option, search in search_space(method).items():
        value = getattr(method, option)
        assert value == 0 or search.low <= value <= search.high, option
        assert search.low < search.high
