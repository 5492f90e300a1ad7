"""The loop: it learns, it can be interrupted, it notices failure, it leaves others' things alone."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kdiga
from kdiga.data import Augmentation, feed_of
from kdiga.errors import DivergedError, InputError
from kdiga.methods import Method, MethodInfo, Needs, Passes, method_by_name
from kdiga.model_state import seeded
from kdiga.training import TrainingSettings
from kdiga.training.optimization import build_optimizer, build_schedule
from kdiga.types import Objective, Term, ThreatModel

THREAT = ThreatModel("linf", 0.1)
QUICK = {"batch_size": 20, "lr": 2e-2, "validation_steps": 3}


def small(seed: int = 1, name: str = "cnn-4", classes: int = 4) -> nn.Module:
    with seeded(seed):
        return kdiga.load_model(name, num_classes=classes, in_channels=1, image_size=8)


def short_attacks(name: str, **options: float) -> Method:
    """A method whose inner attack takes 3 steps: whether a run learns or resumes needs no more."""
    kind = type(method_by_name(name))
    names = {field.name for field in fields(kind)}
    few = {"steps": 3} if "steps" in names and name != "tangent" else {}
    return kind(**few, **options)


@pytest.mark.parametrize("method", kdiga.available_methods())
def test_every_method_learns(method, robust, stripes):
    along = kdiga.methods.method_by_name(method).needs.trains_teacher
    student, teacher = small(), small(5, "cnn-8") if along else robust
    # SAAD learns nothing from a teacher without a doubt, as this one is, unless it sees it at clean images too.
    configured = short_attacks(method, **({"clean_weight": 1.0} if method == "saad" else {}))
    epochs = 8 if along else 4
    settings = QUICK | {"second_teacher": robust, "threat": THREAT}
    result = kdiga.distill(student, teacher, stripes, method=configured, epochs=epochs, **settings)
    assert result.history[-1].clean > 0.8
    assert len(result.history) == epochs
    for model in (student, teacher) if along else (student,):  # a teacher trained along learns, too
        assert not model.training
        report = kdiga.evaluate(model, stripes.batches(), eps=0.1, attacks=["clean"])
        assert report["clean"] > 0.8


def test_student_is_left_with_the_best_weights(robust, stripes):
    student = small()
    result = kdiga.distill(student, robust, stripes, method="kd", epochs=3, threat=THREAT, **QUICK)
    best = result.history[result.best_epoch]
    assert best.robust == max(record.robust for record in result.history)
    for key, value in student.state_dict().items():
        assert torch.equal(value, result.best_state[key])


@pytest.mark.parametrize("select", ["robust", "clean", "mean"])
def test_selection_rule(select, stripes):
    result = kdiga.distill(small(), None, stripes, method="ce", epochs=3, threat=THREAT, select=select, **QUICK)
    scores = [{"robust": r.robust, "clean": r.clean, "mean": (r.clean + r.robust) / 2}[select] for r in result.history]
    assert scores[result.best_epoch] == max(scores)


def test_teacher_and_data_are_untouched(robust, stripes):
    teacher = copy.deepcopy(robust).train()
    before = copy.deepcopy(teacher.state_dict())
    images = stripes.images.clone()
    kdiga.distill(small(), teacher, stripes, method="kdiga", epochs=1, threat=THREAT, **QUICK)
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(stripes.images, images)


@pytest.mark.parametrize("method", ["tangent", "pgd-at"])
def test_same_seed_same_run_whatever_was_drawn_before(method, robust, stripes):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        result = kdiga.distill(
            small(), robust, stripes, method=short_attacks(method), epochs=2, augment="crop", threat=THREAT, **QUICK
        )
        states.append(result.last_state)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_global_random_state_is_left_alone(stripes):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    kdiga.distill(small(), None, stripes, method=short_attacks("pgd-at"), epochs=2, threat=THREAT, **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "optimizer", "schedule"),
    [
        ("tangent", "adamw", "one-cycle"),
        ("pgd-at", "adamw", "cosine"),
        ("kd", "sgd", "multi-step"),
        ("kd", "sgd", "constant"),
        ("mtard", "adamw", "one-cycle"),  # remembers its weights from step to step
        ("peeraid", "adamw", "one-cycle"),  # trains its teacher along
    ],
)
def test_a_resumed_run_ends_bit_equal(method, optimizer, schedule, robust, stripes, tmp_path):
    settings = QUICK | {
        "lr": 2e-2 if optimizer == "adamw" else 0.1,
        "optimizer": optimizer,
        "schedule": schedule,
        "augment": "crop-flip",
    }
    along = method == "peeraid"
    epochs = 4
    few = stripes.take(slice(0, 200))  # with which some stay at chance level
    run = {"method": short_attacks(method), "epochs": epochs, "threat": THREAT, "second_teacher": robust, **settings}
    run |= {"stop_at_chance": False, "on_warning": lambda _: None}

    def teacher(seed: int) -> nn.Module:
        return small(seed, "cnn-8") if along else robust

    whole = kdiga.distill(small(), teacher(3), few, out=tmp_path / "whole", **run)

    def stop(done: int, total: int) -> None:
        if done == 2 * total // 4 + 3:  # in the middle of the third epoch
            raise StoppedError

    with pytest.raises(StoppedError):
        kdiga.distill(small(), teacher(3), few, out=tmp_path / "parts", on_step=stop, **run)
    resumed = kdiga.distill(small(99), teacher(99), few, out=tmp_path / "parts", resume=True, **run)
    assert all(torch.equal(value, resumed.last_state[key]) for key, value in whole.last_state.items())
    assert all(torch.equal(value, resumed.best_state[key]) for key, value in whole.best_state.items())
    journals = [
        [json.loads(line) for line in (tmp_path / name / "journal.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for one, two in zip(*journals, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert resumed.passes == whole.passes
    again = kdiga.distill(small(98), teacher(98), few, out=tmp_path / "parts", resume=True, on_step=stop, **run)
    assert all(torch.equal(value, again.last_state[key]) for key, value in whole.last_state.items()), "at once"


def test_resuming_another_configuration_is_refused(robust, stripes, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == total // 2 + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        kdiga.distill(
            small(), robust, stripes, method="kd", epochs=2, threat=THREAT, out=tmp_path, on_step=stop, **QUICK
        )
    with pytest.raises(InputError, match="resume with the same recipe"):
        kdiga.distill(
            small(), robust, stripes, method="kdiga", epochs=2, threat=THREAT, out=tmp_path, resume=True, **QUICK
        )
    (tmp_path / "state.pt").write_text("damaged")
    with pytest.raises(InputError, match="start over with --overwrite"):
        kdiga.distill(
            small(), robust, stripes, method="kd", epochs=2, threat=THREAT, out=tmp_path, resume=True, **QUICK
        )


def test_collapse_names_the_term(robust, stripes, tmp_path):
    """Far too strong an alignment from the first step: the documented failure."""
    method = kdiga.methods.kdiga.KDIGA(gradient_weight=1e4, ramp=0.0)
    with pytest.raises(DivergedError, match=r"collapsed.*heaviest term is 'gradient'"):
        kdiga.distill(small(), robust, stripes, method=method, epochs=4, threat=THREAT, out=tmp_path, **QUICK)
    assert "collapsed" in (tmp_path / "journal.jsonl").read_text().splitlines()[-1]


@dataclass(frozen=True)
class Exploding:
    """Its second term is not a number."""

    info = MethodInfo("exploding", "a test")
    needs = Needs(student=Passes(1, 1), teachers=0)

    def __call__(self, step):
        losses = step.clean.losses
        return Objective((Term("label", 1.0, losses.mean()), Term("bad", 1.0, (losses - losses).log().sum())))


def test_a_term_that_is_not_finite_is_named(stripes):
    with pytest.raises(DivergedError, match="term 'bad' is not finite"):
        kdiga.distill(small(), None, stripes, method=Exploding(), epochs=1, **QUICK)


def test_loaders_and_tensors_are_accepted(robust, stripes):
    images, labels = stripes.images.float() / 255, stripes.labels
    kdiga.distill(small(), robust, (images, labels), method="kd", epochs=1, threat=THREAT, **QUICK)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=100, shuffle=True)
    result = kdiga.distill(small(), robust, loader, method="kdiga", epochs=2, threat=THREAT)
    assert result.best_epoch == 1
    assert result.history[0].clean is None
    with_validation = kdiga.distill(
        small(), robust, loader, method="kd", epochs=4, lr=2e-2, validation=stripes, validation_steps=2
    )
    assert with_validation.history[0].clean is not None


def test_bfloat16_runs(robust, stripes):
    for route in ("exact", "finite-difference"):
        result = kdiga.distill(
            small(), robust, stripes, method="kdiga", epochs=4, precision="bf16", route=route, threat=THREAT, **QUICK
        )
        assert result.history[-1].clean > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kdigaa"}, "did you mean kdiga"),
        ({"method": "kd", "teacher": None}, "needs a teacher"),
        ({"method": "mtard"}, "needs a second teacher"),
        ({"attack_batch_norm": "evaluation"}, "attack_batch_norm 'evaluation'"),
        ({"alignment_batch_norm": "frozen"}, "accepted: train, eval"),
        ({"epochs": 0}, "epochs was 0"),
        ({"learning_rate": 1e-3}, "training setting or option of method 'kd' 'learning_rate' is not known"),
        ({"optimizer": "adam"}, "did you mean adamw"),
        ({"device": "gpu"}, "accepted: auto, cpu, cuda"),
        ({"route": "finite"}, "did you mean finite-difference"),
        ({"milestones": (0.9, 0.5)}, "rising shares"),
        ({"lr": 0.0}, "lr was 0.0"),
        ({"batch_size": 0}, "batch_size was 0"),
        ({"augment": "flip"}, "augmentation 'flip'"),
    ],
)
def test_bad_settings(options, message, robust, stripes):
    options = {"method": "kd", "epochs": 1, "teacher": robust} | options
    with pytest.raises(InputError, match=message):
        kdiga.distill(small(), options.pop("teacher"), stripes, **options)


def test_models_and_data_that_do_not_fit(robust, stripes):
    with pytest.raises(InputError, match="student has 6 classes and the teacher 4"):
        kdiga.distill(small(classes=6), robust, stripes, method="kd", epochs=1)
    with pytest.raises(InputError, match="the model has 3 classes"):
        kdiga.distill(small(classes=3), robust, stripes, method="kd", epochs=1)
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        kdiga.distill(small(), robust, (stripes.images.float(), stripes.labels), method="kd", epochs=1)


def test_schedules_fire_where_they_should():
    """The second decay of several public repositories never does."""
    model = nn.Linear(2, 2)

    def rates(**options):
        settings = TrainingSettings(lr=0.1, optimizer="sgd", **options)
        optimizer = build_optimizer([model], settings)
        schedule = build_schedule(optimizer, settings, 100)
        found = []
        for _ in range(100):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    steps = rates(schedule="multi-step", milestones=(0.5, 0.75))
    assert [steps[at] for at in (0, 49, 50, 74, 75, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    cycle = rates(schedule="one-cycle")
    assert max(cycle) == pytest.approx(0.1, rel=1e-2)
    assert 28 <= cycle.index(max(cycle)) <= 32
    assert cycle[0] < 0.01
    assert cycle[-1] < 1e-3
    cosine = rates(schedule="cosine")
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[50] == pytest.approx(0.05, rel=0.05)
    assert rates(schedule="constant") == pytest.approx([0.1] * 100)


def test_optimizers_are_the_ones_named():
    model = nn.Linear(2, 2)
    assert isinstance(build_optimizer([model], TrainingSettings(optimizer="adamw")), torch.optim.AdamW)
    sgd = build_optimizer([model], TrainingSettings(optimizer="sgd", momentum=0.8, weight_decay=1e-3))
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["weight_decay"]) == (0.8, 1e-3)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_are_fused_on_cuda_alone(name):
    settings = TrainingSettings(optimizer=name)
    assert not build_optimizer([nn.Linear(2, 2)], settings).defaults["fused"]
    with FakeTensorMode():
        assert build_optimizer([nn.Linear(2, 2, device="cuda")], settings).defaults["fused"]


def test_feed_sees_every_example_in_an_epoch(stripes):
    feed = feed_of(stripes, batch_size=100, seed=0, augmentation=Augmentation(), device=torch.device("cpu"))
    assert sorted(torch.cat([batch.index for batch in feed.epoch(0)]).tolist()) == list(range(400))


def test_method_by_name_passes_objects_through():
    method = method_by_name("kdiga")
    assert method_by_name(method) is method
