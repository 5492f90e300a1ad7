"""One object gives every method to any loop: the loss is the method's formula, and `distill` takes the same steps."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError, KdigaWarning
from kdiga.gradients.routes import Exact, FiniteDifference
from kdiga.methods import method_by_name
from kdiga.model_state import seeded
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS, objective_of, variant_of
from tests.teachers.conftest import Filler
from tests.training.test_loop import small

TEACHERS = {"second_teacher": five_layers(3).eval()}


def distiller_of(student, teacher=None, **options):
    return kdiga.Distiller(student, teacher, **{"total_steps": 10, "threat": "linf 0.1"} | options)


def at_step(distiller, step):
    distiller.load_state_dict({"step": step, "memory": {}})
    return distiller


def networks():
    return five_layers(1).train(), five_layers(2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_the_methods_formula(variant, batch):
    method, (student, teacher) = variant_of(variant), networks()
    teacher.train(method.needs.trains_teacher)
    expected = objective_of(method, *copy.deepcopy((student, teacher)), batch)
    distiller = at_step(distiller_of(student, teacher, method=method, **TEACHERS), 12)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with seeded(3):
        output = distiller.output(*batch)
    expected_loss = expected.total()
    if getattr(method, "align_every", 1) == 1:
        assert torch.equal(output.loss, expected_loss)
        assert output.terms == {term.name: term.value for term in expected.terms}
        assert output.weights == {term.name: term.weight for term in expected.terms}
    moved = int(student.state_dict()["1.num_batches_tracked"] - before["1.num_batches_tracked"])
    assert moved == method.needs.train_forwards
    assert output.logits.shape == (len(batch[1]), 10)
    assert int(student.state_dict()["1.num_batches_tracked"] - before["1.num_batches_tracked"]) == moved
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize("name", ["ce", "kdiga", "tangent", "lbgat", "mtard", "fast-at"])
def test_a_loop_takes_the_steps_of_distill(name, batch):
    """Weights after three steps are equal bit for bit."""
    needs = method_by_name(name).needs
    settings = kdiga.TrainingSettings(batch_size=12, device="cpu", schedule="constant", channels_last=False, lr=0.01)
    student, teacher = networks()
    task = TrainingTask(student, [teacher, TEACHERS["second_teacher"]][: needs.teachers], method_by_name(name), THREAT)
    stepper = Stepper(task, settings, Exact(), steps=10)
    stepper.train_mode()
    own, own_teacher = networks()
    own_teacher.train(needs.trains_teacher)
    distiller = distiller_of(own, own_teacher, method=name, **TEACHERS)
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=0.01, weight_decay=settings.weight_decay)
    data = Batch(*batch, torch.arange(len(batch[1])))
    for number in range(3):
        with seeded(number):
            stepper.take(data, number)
        with seeded(number):
            optimizer.zero_grad()
            distiller(*batch).backward()
            optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(student.parameters(), own.parameters(), strict=True))


THREAT = ThreatModel("linf", 0.1)


def test_logits_are_those_of_the_pass_in_the_loss(batch):
    student, teacher = networks()
    output = distiller_of(student, teacher, method="kd").output(*batch)
    assert output.logits.requires_grad
    assert torch.equal(output.loss, sum(output.weights[name] * value for name, value in output.terms.items()))
    assert output.logits is output.statistics.passes[0].logits


def test_logits_have_a_graph_after_a_second_forward(batch):
    options = {"method": "kdiga", "convention": "author", "second_forward": True}
    assert distiller_of(*networks(), **options).output(*batch).logits.requires_grad


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_the_gap_is_of_one_mode_of_batch_norm(norm, batch):
    student, teacher = networks()
    for parameter in (given := copy.deepcopy(student)).parameters():
        parameter.requires_grad_(False)
    distiller = distiller_of(student, teacher, method="tangent", learn_at="adv", alignment_batch_norm=norm, flat=True)
    output = distiller.output(*batch)
    images, labels = batch
    clean = images.clone().requires_grad_()
    given.train(norm == "train")
    loss = nn.functional.cross_entropy(given(clean), labels)
    delta = torch.autograd.grad(loss, clean)[0].sign() * 0.1
    adv = (images + delta).clamp(0, 1)
    expected = nn.functional.cross_entropy(given(adv), labels) - loss
    assert output.terms["gap"].item() == pytest.approx(expected.item(), abs=1e-4)
    learnt = torch.autograd.grad(output.objective.terms[2].value, list(student.parameters()))
    plain = networks()[0]
    nn.functional.cross_entropy(plain(adv), labels).backward()
    for mine, other in zip(learnt, plain.parameters(), strict=True):
        assert torch.allclose(mine, other.grad, atol=1e-5)


def test_options_are_given_as_in_a_recipe_or_as_keywords(batch):
    student, teacher = networks()
    ways = [
        {"method": {"name": "kd", "temperature": 4}},
        {"method": "kd", "temperature": 4},
        {"method": kdiga.methods.KD(temperature=4)},
        {"method": kdiga.methods.KD, "temperature": 4},
        {"method": kdiga.methods.KD(), "temperature": 4},
    ]
    assert {distiller_of(student, teacher, **way).method for way in ways} == {method_by_name("kd", {"temperature": 4})}


def test_distill_takes_options_and_a_threat_model_as_text(batch):
    student, teacher = networks()
    quick = {"epochs": 1, "batch_size": 8, "validation": None, "device": "cpu", "threat": "linf 0.1"}
    for method in ({"name": "tangent", "gap_weight": 2}, "tangent"):
        more = {"gap_weight": 2} if isinstance(method, str) else {}
        result = kdiga.distill(copy.deepcopy(student), teacher, [batch], method=method, **more, **quick)
        assert result.method == "tangent"
        assert result.history[0].weights["gap"] == 0


def test_without_labels_the_teachers_predictions_stand_in(batch):
    for name in ("kd", "kdiga", "tangent"):
        student, teacher = networks()
        predicted = teacher.eval()(batch[0]).argmax(1)
        same = distiller_of(copy.deepcopy(student), teacher, method=name)(batch[0], predicted)
        assert torch.equal(distiller_of(student, teacher, method=name)(batch[0]), same)
    student, teacher = networks()
    same = kdiga.align(copy.deepcopy(student), teacher, batch[0], predicted)
    assert torch.equal(kdiga.align(student, teacher, batch[0], None), same)
    with pytest.raises(InputError, match="labels were None and so was the teacher"):
        kdiga.align(student, None, batch[0], None, teacher_gradient=torch.rand_like(batch[0]))


def test_a_cache_takes_the_place_of_the_teacher(stripes, tmp_path):
    teacher = small(2)
    Filler(teacher, stripes, augment="none").fill(tmp_path)
    images, labels = stripes.images[5:25].float() / 255, stripes.labels[5:25]
    losses = []
    for source in (tmp_path, str(tmp_path), teacher):
        distiller = at_step(distiller_of(small(1).train(), source, method="kdiga"), 9)
        losses.append(distiller(images, labels, index=torch.arange(5, 25)).item())
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-3)
    with pytest.raises(InputError, match="index was not given and the teacher is a cache"):
        distiller_of(small(1).train(), tmp_path, method="kdiga")(images, labels)


@pytest.mark.parametrize("given", ["None", "probabilities"])
def test_stored_gradients_are_refused_at_other_labels_than_the_datas(given, stripes, tmp_path):
    filler, index = Filler(small(2), stripes, augment="none"), torch.arange(5, 25)
    filler.fill(tmp_path)
    images = filler.train.images[5:25].float() / 255
    labels = None if given == "None" else torch.full((20, 4), 0.25)
    with pytest.raises(InputError, match=f"labels were {given} and the teacher is a cache.* give the live model"):
        distiller_of(small(1).train(), tmp_path, method="kdiga")(images, labels, index=index)
    assert distiller_of(small(1).train(), tmp_path, method="kd")(images, labels, index=index).isfinite()


def test_a_cache_equals_its_teacher_where_labels_are_missing(stripes, tmp_path):
    filler = Filler(small(2), stripes, augment="none")
    filler.fill(tmp_path)
    images, labels = filler.train.images[5:25].float() / 255, filler.train.labels[5:25].clone()
    labels[:10] = -100
    stored, live = (
        at_step(distiller_of(small(1).train(), source, method="kdiga"), 9)
        .output(images, labels, index=torch.arange(5, 25))
        .terms["gradient"]
        for source in (tmp_path, filler.teacher)
    )
    assert stored.item() == pytest.approx(live.item(), rel=1e-3)


def test_a_compiled_student_runs_compiled_where_it_is_differentiated_once(batch):
    student, teacher = networks()
    plain = at_step(distiller_of(copy.deepcopy(student), teacher, method="kdiga"), 9)
    compiled = at_step(distiller_of(torch.compile(student, backend="eager"), teacher, method="kdiga"), 9)
    assert torch.equal(plain(*batch), compiled(*batch))
    assert compiled.choices["route"]["chosen"] == "exact"
    assert len(list(compiled.parameters())) == len(list(plain.parameters()))


def test_autocast_and_accumulation_are_the_loops(batch):
    student, teacher = networks()
    distiller = distiller_of(student, teacher, method="tangent")
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            distiller(images, labels) / 2 for images, labels in zip(*(part.chunk(2) for part in batch), strict=True)
        ]
    for loss in losses:
        loss.backward()
    assert distiller.step == 2
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_the_route_is_chosen_at_the_first_call_and_can_be_given(batch):
    student, teacher = networks()
    auto = distiller_of(student, teacher, method="kdiga")
    assert auto.choices == {}
    auto(*batch)
    assert auto.choices["route"]["chosen"] == "exact"
    given = distiller_of(student, teacher, method="kdiga", route=FiniteDifference(0.3))
    given(*batch)
    assert given.settings.route == FiniteDifference(0.3)
    assert "FiniteDifference" in given.choices["route"]["chosen"]


def test_its_state_continues_an_interrupted_training(batch):
    student, teacher = networks()
    first = distiller_of(student, teacher, method="mtard", **TEACHERS)
    for _ in range(3):
        first(*batch)
    second = distiller_of(copy.deepcopy(student), teacher, method="mtard", **TEACHERS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with seeded(1):
        one = first.output(*batch)
    with seeded(1):
        two = second.output(*batch)
    assert one.weights == two.weights != {"robust": 0.5, "natural": 0.5}
    assert first.step == second.step == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kdg"}, "method 'kdg' is not known; did you mean kd"),
        ({"method": 3}, "method was 3; it must be text, a mapping or a method such as"),
        ({"method": {"temperature": 4}}, "method was {'temperature': 4}; it must be a name"),
        (
            {"method": "kd", "temprature": 4},
            "option of method 'kd' 'temprature' is not known; did you mean temperature",
        ),
        ({"method": "kd", "temperature": "4"}, "temperature was '4'; it must be a number"),
        ({"method": "tangent", "flat": "no"}, "flat was 'no'; it must be True or False"),
        ({"method": "kd", "threat": "linf"}, "threat was 'linf'; it must be a norm and an eps, such as 'linf 8/255'"),
        ({"method": "kd", "threat": 0.1}, "threat was 0.1; it must be a kdiga.ThreatModel, text or None"),
        ({"method": "kd", "total_steps": 0}, "total_steps was 0; it is the number of calls"),
        ({"method": "kdiga", "route": "exat"}, "route 'exat' is not known; did you mean exact"),
        ({"method": "mtard"}, "method 'mtard' needs a second teacher"),
    ],
)
def test_a_wrong_argument_is_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as caught:
        distiller_of(*networks(), **options)
    assert "\n" not in str(caught.value)


def wrong_calls(images, labels):
    student, teacher = networks()
    kd = distiller_of(student, teacher, method="kd")
    frozen = distiller_of(five_layers(1).requires_grad_(False), teacher, method="kd")
    guide = distiller_of(student, five_layers(2).eval(), method="lbgat")
    alone = distiller_of(student, method="ce")
    elsewhere = distiller_of(student, five_layers(2).to("meta"), method="kd")
    return {
        "images were ndarray": lambda: kd(images.numpy(), labels),
        "images had pixels in": lambda: kd(images * 255, labels),
        r"labels were in \[": lambda: kd(images, labels + 10),
        "labels were torch.float32": lambda: kd(images, labels.float()),
        "the batch was empty": lambda: kd(images[:0], labels[:0]),
        "gradients are off here": lambda: torch.no_grad()(kd)(images, labels),
        "no parameter of the student requires a gradient": lambda: frozen(images, labels),
        "trains its teacher, which is in eval mode; call teacher.train": lambda: guide(images, labels),
        "labels were None and method 'ce' has no trained teacher": lambda: alone(images),
        "images were on cpu and a teacher on meta": lambda: elsewhere(images, labels),
    }


@pytest.mark.parametrize("number", range(10))
def test_a_wrong_call_is_one_sentence(number, batch):
    message, call = list(wrong_calls(*batch).items())[number]
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_faults_of_the_first_batch_are_warnings(batch):
    student, teacher = networks()
    with pytest.warns(KdigaWarning, match=r"in eval mode; to train it, call student.train\(\) first"):
        distiller_of(student.eval(), teacher, method="kd")(*batch)


def test_an_input_gradient_that_stays_zero_ends_the_training(batch):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = five_layers(1)

        def forward(self, images):
            return self.net(images) * 0

    distiller = distiller_of(Flat(), five_layers(2), method="kdiga", route="finite-difference")
    for _ in range(8):
        distiller(*batch)
    with pytest.raises(kdiga.DivergedError, match="input gradient is exactly zero on 100 %"):
        distiller(*batch)


def test_zero_gradients_of_images_without_labels_are_no_fault(batch):
    student, teacher = networks()
    images, labels = batch
    nothing, some = torch.full_like(labels, -100), torch.where(torch.arange(12) < 10, -100, labels)
    distiller = distiller_of(student, teacher, method="kdiga")
    with warnings.catch_warnings(action="error"):
        for step in range(10):
            distiller(images, nothing if step % 2 else some)
        kdiga.align(student, teacher, images, nothing)


def test_the_batch_of_the_caller_does_not_change(batch):
    student, teacher = networks()
    images = batch[0].clone()
    distiller_of(student, teacher, method="tangent")(images, batch[1]).backward()
    assert images.grad is None
    assert torch.equal(images, batch[0])


def test_threat_models_are_text_in_evaluate(batch):
    model = five_layers(1).eval()
    one = kdiga.evaluate(model, [batch], threat="l2 0.5", attacks=["fgsm"])
    assert one.threat == replace(THREAT, norm="l2", eps=0.5)
    assert kdiga.evaluate(model, [batch], attacks=["clean"]).threat == ThreatModel()
    with pytest.raises(InputError, match="threat was given together with norm or eps"):
        kdiga.evaluate(model, [batch], threat="l2 0.5", eps=0.1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_soft_labels_of_one_class_are_labels(variant, batch):
    images, labels = batch
    losses = []
    for given in (labels, nn.functional.one_hot(labels, 10).float()):
        student, teacher = networks()
        teacher.train(variant_of(variant).needs.trains_teacher)
        distiller = at_step(distiller_of(student, teacher, method=variant_of(variant), **TEACHERS), 9)
        with seeded(3):
            losses.append(distiller(images, given).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_mixed_labels_have_the_mixed_loss(batch):
    student, teacher = networks()
    images, labels = batch
    soft = 0.7 * nn.functional.one_hot(labels, 10) + 0.3 * nn.functional.one_hot(labels.flip(0), 10)
    parts = [
        distiller_of(copy.deepcopy(student), teacher, method="ce")(images, one) for one in (labels, labels.flip(0))
    ]
    mixed = distiller_of(copy.deepcopy(student), teacher, method="ce")(images, soft)
    assert mixed.item() == pytest.approx(0.7 * parts[0].item() + 0.3 * parts[1].item(), rel=1e-5)
    term = kdiga.align(student, teacher, images, soft)
    term.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_example_without_a_label_has_no_label_loss(variant, batch):
    images, labels = batch
    student, teacher = networks()
    teacher.train(variant_of(variant).needs.trains_teacher)
    some = labels.clone()
    some[::2] = -100
    distiller = at_step(distiller_of(student, teacher, method=variant_of(variant), **TEACHERS), 9)
    loss = distiller(images, some)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_label_loss_is_zero_without_labels(batch):
    student, teacher = networks()
    student.eval()
    images, labels = batch
    some = labels.clone()
    some[6:] = -100
    with pytest.warns(KdigaWarning, match="eval mode"):
        part = distiller_of(student, teacher, method="ce")(images, some)
    with pytest.warns(KdigaWarning, match="eval mode"):
        first = distiller_of(student, teacher, method="ce")(images[:6], labels[:6])
    assert part.item() == pytest.approx(first.item() / 2, rel=1e-5)


def test_distill_takes_a_loader_of_mixed_labels(batch):
    images, labels = batch
    soft = 0.7 * nn.functional.one_hot(labels, 10) + 0.3 * nn.functional.one_hot(labels.flip(0), 10)
    quick = {"method": "tangent", "epochs": 1, "batch_size": 12, "device": "cpu", "threat": "linf 0.1"}
    result = kdiga.distill(*networks(), [(images, soft)], **quick)
    assert result.history[0].terms["label"] > 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.rand(12, 9), r"labels had shape \(12, 9\) for 12 images of 10 classes; soft labels must be"),
        (torch.rand(3, 10), r"labels had shape \(3, 10\) for 12 images; soft labels must be"),
        (torch.ones(12, 10), "labels were .* with rows that are not probabilities"),
        (torch.ones(12, 10).long(), r"labels had shape \(12, 10\) for 12 images; they must be \(batch,\)"),
        (torch.full((12,), -1), r"labels were in \[-1, -1\]"),
    ],
)
def test_wrong_soft_labels_are_refused(labels, message, batch):
    for call in (distiller_of(*networks(), method="kd"), lambda *given: kdiga.align(*networks(), *given)):
        with pytest.raises(InputError, match=message):
            call(batch[0], labels)
