"""From YAML to cells: what is shared, what differs, and what is refused, with the line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdiga.errors import InputError
from kdiga.experiments.study import load_study

LONG = "  long: {method: kd, training: {epochs: 9}}\n"


def run_specs(study):
    return {run_spec.folder: run_spec for run_spec in study.run_specs}


def test_a_study_becomes_cells_that_share_everything_else(study):
    checked = study(("  kd: {", LONG + "  kd: {"))
    found = run_specs(checked)
    assert list(found) == [
        "teachers/robust",
        "ce/seed-0",
        "long/seed-0",
        "kd/seed-0",
        "ce/seed-1",
        "long/seed-1",
        "kd/seed-1",
    ]
    kd, ce, long = (found[f"{label}/seed-1"].recipe for label in ("kd", "ce", "long"))
    assert kd.teacher.name == "out/teachers/robust"
    assert found["kd/seed-1"].needs == ("teachers/robust",)
    assert (ce.teacher, found["ce/seed-1"].needs) == (None, ()), "a method without a teacher waits for none"
    assert kd.method.temperature == 4
    assert (kd.training.seed, kd.training.epochs, long.training.epochs) == (1, 3, 9)
    assert replace(kd, method=ce.method, teacher=None) == ce
    assert replace(long.training, epochs=3) == kd.training
    robust = found["teachers/robust"].recipe
    assert (robust.student.name, robust.training.seed, robust.threat, robust.data) == ("cnn-8", 0, kd.threat, kd.data)


def test_a_teacher_may_have_a_seed_and_epochs_of_its_own(study):
    checked = study(("method: ce}", "method: ce, training: {seed: 7, epochs: 5}}"))
    settings = run_specs(checked)["teachers/robust"].recipe.training
    assert (settings.seed, settings.epochs, settings.batch_size) == (7, 5, 16)


def test_sections_without_a_name_are_merged_and_with_one_replaced(study):
    checked = study(
        ("  student: cnn-4", "  student: {name: cnn-4, activation: silu}"),
        ("  ce: ce", "  a: {method: kd, teacher: {which: last}}\n  b: {method: kd, student: cnn-8}"),
    )
    a, b = (run_specs(checked)[f"{label}/seed-0"].recipe for label in "ab")
    assert (a.teacher.name, a.teacher.which) == ("out/teachers/robust", "last")
    assert (a.student.activation, b.student.name, b.student.activation) == ("silu", "cnn-8", None)


def test_two_teachers(study):
    two = ("  kd: {", "  mtard: {method: mtard, second_teacher: natural}\n  kd: {")
    checked = study(two, ("methods:", "  natural: {student: cnn-4, method: ce}\nmethods:"))
    assert run_specs(checked)["mtard/seed-0"].needs == ("teachers/robust", "teachers/natural")
    with pytest.raises(InputError, match=r"second_teacher: missing section; method mtard .* \(tiny.yaml:11\)"):
        study(("  kd: {", "  mtard: mtard\n  kd: {"))


def test_overrides(study):
    changes = ("seeds=[3]", "base.training.epochs=1", "methods.ce.method=ce", "methods.kd.temperature=2")
    checked = study(("  ce: ce", "  ce: {method: ce}"), overrides=changes)
    found = run_specs(checked)
    assert list(found) == ["teachers/robust", "ce/seed-3", "kd/seed-3"]
    assert (found["kd/seed-3"].recipe.method.temperature, found["ce/seed-3"].recipe.training.epochs) == (2, 1)
    assert "--set methods.kd.temperature=2" in checked.command
    assert run_specs(study(overrides=("methods.ce.name=pgd-at",)))["ce/seed-0"].recipe.method.info.name == "pgd-at"


def test_the_folder_follows_the_file(study):
    study()
    assert str(load_study("tiny.yaml").out) == "runs/tiny"


def test_tune_adds_as_many_trials_for_every_method_that_has_coefficients(study):
    checked = study(("seeds:", "tune: {trials: 2, epochs: 1}\nseeds:"))
    assert {label: len(found) for label, found in checked.of("trial").items()} == {"kd": 2}
    found = run_specs(checked)
    assert found["kd/seed-1"].trials == ("tuning/kd/trial-00", "tuning/kd/trial-01")
    trial = found["tuning/kd/trial-01"]
    assert (trial.recipe.training.epochs, trial.recipe.training.seed, trial.which) == (1, 0, ())
    assert trial.needs == ("teachers/robust",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "sedes:", r"sedes: unknown key; did you mean seeds\? \(tiny.yaml:12\)"),
        ("epochs: 3", "epoch: 3", r"training.epoch: unknown key; did you mean epochs\? \(tiny.yaml:6\)$"),
        ("  student: cnn-4", "  studnet: cnn-4", r"base.studnet: unknown key; did you mean student\? \(tiny.yaml:3\)"),
        ("{name: kd, temp", "{name: kdd, temp", r"method.name: 'kdd' is not known; .*mean kd\? \(tiny.yaml:11\)"),
        ("temperature: 4", "temprature: 4", r"method.temprature: unknown key; did you mean temperature.*yaml:11\)"),
        ("  ce: ce", "  ce: {method: ce, data: mnist}", r"methods.ce.data: all cells must agree .*; set it in base"),
        ("method: ce}", "method: ce, threat: {eps: 0}}", r"teachers.robust.threat: all cells must agree"),
        ("  ce: ce", "  ce: {method: ce, training: {seed: 3}}", r"methods.ce.training.seed: .*list them under seeds"),
        ("{epochs: 3", "{seed: 1, epochs: 3", r"base.training.seed: .*list them under seeds"),
        ("  ce: ce", "  ce: {training: {epochs: 3}}", r"methods.ce: overrides sections but has no method"),
        ("  ce: ce", "  ce:", r"method: missing section \(tiny.yaml:10\)"),
        ("  ce: ce", "  .ce: ce", r"methods.\.ce: '.ce' is not a label"),
        ("  ce: ce", "  a/b: ce", r"'a/b' is not a label"),
        ("  ce: ce", "  on: ce", r"True is not a label"),
        ("  ce: ce", "  teachers: ce", r"is a name that the folders need"),
        (
            "  ce: ce",
            "  KD: ce",
            r"methods.kd: KD/seed-0, of KD, and kd/seed-0, of kd, would be one folder .*rename one \(tiny.yaml:11\)",
        ),
        ("  ce: ce", "  kd: ce", r"methods.kd: appears twice \(tiny.yaml:10 and tiny.yaml:11\)"),
        ("  teacher: robust\n", "", r"teacher: missing section; method kd needs one.* \(tiny.yaml:10\)"),
        ("teacher: robust", "teacher: robts", r"'robts' is not among the teachers; did you mean robust\?"),
        ("method: ce}", "method: kd}", r"teacher: missing section; method kd needs one.*\(tiny.yaml:8\)"),
        ("{student: cnn-8, ", "{", r"student: missing section \(tiny.yaml:8\)"),
        ("method: ce}", "method: ce, teacher: x}", r"teachers.robust.teacher: unknown key; accepted: student, method"),
        ("  data: {name: digits, train_examples: 400}\n", "", r"data: missing section \(tiny.yaml:1\)$"),
        ("seeds: [0, 1]", "seeds: []", r"seeds: was \[\]; it is a list of at least one seed"),
        ("seeds: [0, 1]", "seeds: 3", r"seeds: was 3; it is a list"),
        ("seeds: [0, 1]", "seeds: [1, 1]", r"each once"),
        ("[clean, pgd-2]", "[clean, pgd]", r"evaluate.*'pgd' is not known; did you mean pgd-20 .*\? \(tiny.yaml:13\)"),
        ("examples: 40", "exmples: 40", r"evaluate.exmples: unknown key; did you mean examples"),
        ("examples: 40", "examples: 0", r"examples was 0; it must be at least 1"),
        ("examples: 40", "examples: many", r"evaluate.examples: .*integer.* \(was 'many'\) \(tiny.yaml:13\)"),
        ("seeds:", "tune: {trials: 0}\nseeds:", r"trials was 0; it must be at least 1"),
    ],
)
def test_what_is_refused(old, new, message, study):
    with pytest.raises(InputError, match=message):
        study((old, new))


def test_every_problem_is_told_once(study):
    with pytest.raises(InputError) as error:
        study(("lr: 1e-2", "ir: 1e-2"), ("temperature", "temprature"))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("", "holds no sections"), ("base: 3", r"base: missing section")]
)
def test_files_that_are_no_studies(text, message, study):
    with pytest.raises(InputError, match=message):
        study(text=text)
    with pytest.raises(InputError, match="cannot be read"):
        load_study("none.yaml")
    with pytest.raises(InputError, match="write it as key=value"):
        study(overrides=("seeds",))
