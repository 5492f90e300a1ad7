"""From a claims recipe to runs: what is crossed, what is shared, and what is refused, with the line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdiga.errors import InputError
from kdiga.experiments.board import CleanAccuracyFloor
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.claims.plan import Pair

WIDE = """\
data: {name: digits, train_examples: 300}
threat: {norm: linf, eps: 0.05}
training: {epochs: 6, batch_size: 16, lr: 1e-2}
teachers:
  robust: {student: cnn-8, method: {name: pgd-at, steps: 2}, training: {epochs: 9}}
  public: {name: cnn-8, weights: public.pt, normalization: none}
students:
  small: cnn-4
  wide: {student: cnn-8, training: {lr: 5e-3}}
pretrained:
  students: {old: {name: cnn-4, weights: old.pt, normalization: none}}
  teachers: [public]
  training: {epochs: 1}
  methods:
    kdiga: {name: kdiga, label_weight: 1, teacher_weight: 0}
  tune_trials: 2
  at_most: 2
methods:
  ce: ce
  kd: kd
  pgd-at: {name: pgd-at, steps: 2}
  kdiga: {method: kdiga, training: {route: exact}}
judged: [kdiga]
seeds: [3, 4]
tune: {trials: 3, epochs: 2, student: wide}
evaluate: {attacks: [clean, autoattack], examples: 40, autoattack_examples: 8}
explain: {examples: 6}
"""
PAIRS = "pairs: {public: [small, wide], robust: [wide]}\njudged:"


def folders(checked, kind):
    return [run_spec.folder for run_spec in checked.run_specs if run_spec.kind == kind]


def run_spec(checked, folder):
    return next(run_spec for run_spec in checked.run_specs if run_spec.folder == folder)


def test_the_runs_of_a_small_recipe(claims):
    checked = claims(text=WIDE)
    assert folders(checked, "teacher") == ["teachers/robust"]
    assert folders(checked, "start") == ["teachers/public", "starts/old"]
    assert {run_spec.kind for run_spec in checked.run_specs[:3]} == {"teacher", "start"}, (
        "nothing else is worth running before them"
    )
    of_first = [name for name in folders(checked, "method") if name.endswith("seed-3")]
    crossed = [f"{teacher}-to-{student}" for teacher in ("robust", "public") for student in ("small", "wide")]
    assert of_first == [
        "ce/small/seed-3",
        "ce/wide/seed-3",
        *(f"kd/{pair}/seed-3" for pair in crossed),
        "pgd-at/small/seed-3",
        "pgd-at/wide/seed-3",
        *(f"kdiga/{pair}/seed-3" for pair in crossed),
        "kd/public-to-old/seed-3",
        "pgd-at/old/seed-3",
        "kdiga/public-to-old/seed-3",
    ]
    later = [name for name in folders(checked, "method") if name.endswith("seed-4")]
    assert later == [name.replace("seed-3", "seed-4") for name in of_first]
    assert folders(checked, "method") == of_first + later, "a seed is finished before the next"
    assert len({run_spec.folder for run_spec in checked.run_specs}) == len(checked.run_specs)
    order = [one.folder for one in checked.run_specs]
    assert order.index("tuning/kdiga/trial-00") < order.index("ce/small/seed-3")
    last_fresh = order.index("kdiga/public-to-wide/seed-3")
    assert last_fresh < order.index("tuning/kdiga-old/trial-00") < order.index("kd/public-to-old/seed-3")
    assert checked.grid.pairs[-1] == Pair("public", "old", pretrained=True)
    assert (checked.grid.methods, checked.grid.judged, checked.grid.seeds) == (
        {"ce": "ce", "kd": "kd", "pgd-at": "pgd-at", "kdiga": "kdiga"},
        ("kdiga",),
        (3, 4),
    )
    assert checked.grid.label_of("kd") == "kd"


def test_pairs_that_are_chosen(claims):
    checked = claims(("judged:", PAIRS), ("student: wide}", "teacher: public, student: small}"), text=WIDE)
    assert [pair.name for pair in checked.grid.pairs] == [
        "public-to-small",
        "public-to-wide",
        "robust-to-wide",
        "public-to-old",
    ]
    assert [name for name in folders(checked, "method") if name.startswith("ce/")] == [
        f"ce/{student}/seed-{seed}" for seed in (3, 4) for student in ("small", "wide")
    ]


def test_whom_a_run_learns_from_and_how(claims):
    checked = claims(text=WIDE)
    student = run_spec(checked, "kdiga/public-to-wide/seed-4")
    assert student.needs == ("teachers/public",)
    assert student.recipe.teacher.name == str(Path("out/teachers/public"))
    assert (student.recipe.training.seed, student.recipe.training.lr, student.recipe.training.route) == (
        4,
        5e-3,
        "exact",
    )
    assert run_spec(checked, "ce/small/seed-3").recipe.teacher is None
    assert run_spec(checked, "ce/small/seed-3").needs == ()
    teacher = run_spec(checked, "teachers/robust")
    assert (teacher.recipe.training.epochs, teacher.recipe.training.seed, teacher.which) == (9, 0, ("best",))
    old = run_spec(checked, "kdiga/public-to-old/seed-3")
    assert (old.recipe.method.label_weight, old.recipe.training.epochs) == (1.0, 1)
    assert old.recipe.student.weights == "old.pt"
    assert run_spec(checked, "kd/public-to-old/seed-3").recipe.method.info.name == "kd", (
        "one that is not told otherwise"
    )


def test_what_is_found_out_of_students_of_the_first_seed(claims):
    checked = claims(text=WIDE)
    for one in checked.run_specs:
        files = [step.file for step in one.after]
        plain, old = one.label == "ce", one.folder.split("/")[1].endswith("old")
        if one.kind != "method" or plain or old or not one.folder.endswith("seed-3"):
            assert files == [], one.folder
        else:
            assert files == ["explanation.json", "certificate.json"], one.folder
            # One that learns from no teacher is held against the first.
            assert {step.teacher for step in one.after} == (set(one.needs) or {"teachers/robust"})
            assert [step.asked["examples"] for step in one.after] == [6, 50]
            assert one.reports == ("best-test.json", *files)


def test_a_methods_trials_are_shared_by_all_its_pairs(claims):
    checked = claims(text=WIDE)
    assert [name for name in folders(checked, "trial") if "kdiga" in name] == [
        *(f"tuning/kdiga/trial-{number:02d}" for number in range(3)),
        *(f"tuning/kdiga-old/trial-{number:02d}" for number in range(2)),
    ]
    trial = run_spec(checked, "tuning/kdiga/trial-01")
    assert (trial.needs, trial.recipe.student.name, trial.recipe.training.epochs) == (("teachers/robust",), "cnn-8", 2)
    assert trial.which == (), "a trial never sees the test images"
    assert trial.recipe.training.seed == 3
    fresh = {one.trials for one in checked.run_specs if one.label == "kdiga" and one.kind == "method" and not one.floor}
    assert fresh == {tuple(f"tuning/kdiga/trial-{number:02d}" for number in range(3))}
    old = [one for one in checked.run_specs if one.floor is not None]
    assert {one.folder.split("/")[1] for one in old} == {"public-to-old"}, "only a pre-trained student has to keep any"
    assert {one.floor for one in old} == {CleanAccuracyFloor("starts/old", 2.0)}
    assert {one.trials for one in old if one.label == "kdiga"} == {
        ("tuning/kdiga-old/trial-00", "tuning/kdiga-old/trial-01")
    }
    pre = run_spec(checked, "tuning/kdiga-old/trial-00")
    assert (pre.needs, pre.recipe.training.epochs, pre.recipe.method.teacher_weight) == (("teachers/public",), 1, 0.0)
    assert run_spec(checked, "starts/old").validated
    assert not run_spec(checked, "ce/small/seed-3").trials, "ce has no coefficients"
    plain = claims(("tune: {trials: 3, epochs: 2, student: wide}\n", ""), text=WIDE)
    assert folders(plain, "trial") == []
    assert not any(one.trials or one.floor for one in plain.run_specs)


def test_overrides_and_the_command(claims):
    checked = claims(overrides=("training.epochs=2", "seeds=[5]"))
    assert checked.command == "kdiga claims tiny.yaml --out out --set training.epochs=2 --set 'seeds=[5]'"
    assert {one.recipe.training.epochs for one in checked.run_specs} == {2}
    assert claims(out=None).out == Path("runs/tiny")
    assert load_claims("tiny.yaml", None, (), Path("records")).command == "kdiga claims tiny.yaml --records records"
    assert claims(("seeds: [0]\n", "")).grid.seeds == (0,)


ROBUST = "robust: {student: cnn-8, method: {name: pgd-at, steps: 2}}"
OLD = "pretrained:\n  students: {old: {name: cnn-4, weights: old.pt, normalization: none}}\njudged:"
REFUSED = {
    "unknown key": (("judged:", "pares: {}\njudged:"), r"pares: unknown key; did you mean pairs\? \(tiny.yaml:13\)"),
    "unknown key of a section": (("samples: 20", "smaples: 20"), r"certify.smaples: unknown key; did you mean samples"),
    "unknown key of a teacher": (
        ("steps: 2}}", "steps: 2}, trainig: {}}"),
        r"teachers.robust.trainig: unknown key; did",
    ),
    "unknown key of a student": (
        ("small: cnn-4", "small: {student: cnn-4, method: kd}"),
        r"students.small.method: unkn",
    ),
    "unknown key of a method": (
        ("kd: kd", "kd: {method: kd, teacher: robust}"),
        r"methods.kd.teacher: unknown key; acc",
    ),
    "unknown key of pretrained": (
        ("judged:", OLD.replace("judged", "  atmost: 1\njudged")),
        r"atmost.*did you mean at_m",
    ),
    "value of a section": (("samples: 20", "samples: many"), r"certify.samples: .*integer.*\(was 'many'\)"),
    "settings out of range": (
        ("explain:", "rules: {kept: 2}\nexplain:"),
        r"kept was 2.0; it must be above 0 and at mos",
    ),
    "certify": (("batches: 5", "batches: 4"), r"certify: CLEVER was asked for 4 batches"),
    "unknown method": (("tangent: tangent", "tangent: tangnet"), r"'tangnet' is not known; did you mean tangent"),
    "unknown judged": (("[kdiga, tangent]", "[kdgia]"), r"judged: 'kdgia' is not among methods; did you mean kdiga\?"),
    "judged is no list": (("[kdiga, tangent]", "kdiga"), r"judged: was 'kdiga'; list at least one of methods: ce, kd"),
    "no judged": (("judged: [kdiga, tangent]\n", ""), r"judged: was None; list at least one of methods"),
    "judged twice": (("[kdiga, tangent]", "[kdiga, kdiga]"), r"judged: was \['kdiga', 'kdiga'\]; list each once"),
    "judged without a teacher": (("[kdiga, tangent]", "[kdiga, ce]"), r"judged: ce learns from no teacher"),
    "unknown student of a pair": (
        ("judged:", "pairs: {robust: [smal]}\njudged:"),
        r"pairs.robust: 'smal' is not among "
        r"students; did you mean small\? \(tiny.yaml:13\)",
    ),
    "unknown teacher of a pair": (
        ("judged:", "pairs: {rob: [small]}\njudged:"),
        r"pairs.rob: 'rob' is not among teachers",
    ),
    "a number as a teacher": (("judged:", "pairs: {1: [small]}\njudged:"), r"pairs.1: 1 is not among teachers: robust"),
    "a pair twice": (("judged:", "pairs: {robust: [small, small]}\njudged:"), r"pairs.robust: .* list each once"),
    "no pairs": (("judged:", "pairs: {}\njudged:"), r"pairs: was {}; it is a section: TEACHER: \[STUDENT, ...\]"),
    "no kd": (("  kd: kd\n", ""), r"methods: no label has the method kd, which claim a needs"),
    "no ce": (("  ce: ce\n", ""), r"methods: no label has the method ce, which claim a needs"),
    "a fresh teacher": ((ROBUST, "robust: cnn-8"), r"teachers.robust: has fresh weights, so it has nothing to teach; "),
    "a fresh pre-trained student": (
        ("judged:", OLD.replace(", weights: old.pt, normalization: none", "")),
        r"pretrained.students.old: has fresh weights; a pre-trained student has others",
    ),
    "no students": (
        ("students:\n  small: cnn-4\n", ""),
        r"students: missing section; it lists at least one by a label",
    ),
    "no data": (("data: {name: digits, train_examples: 300}\n", ""), r"data: missing section"),
    "a label with -to-": (("small: cnn-4", "a-to-b: cnn-4"), r"students.a-to-b: 'a-to-b' is not a label; use letters"),
    "a label with a slash": (("small: cnn-4", "a/b: cnn-4"), r"'a/b' is not a label"),
    "a label that is a number": (("small: cnn-4", "8: cnn-4"), r"students.8: 8 is not a label"),
    "a reserved label": (
        ("tangent: tangent", "tuning: kd"),
        r"methods.tuning: is a name that .*; rename it",
    ),
    "a reserved label in capitals": (
        ("tangent: tangent", "Teachers: kd"),
        r"methods.Teachers: is a name that the",
    ),
    "a label that is a file": (
        ("tangent: tangent", "claims.json: kd"),
        r"methods.claims.json: is a name that the",
    ),
    "one folder for two": (
        ("tangent: tangent", "tangent: tangent\n  KD: kd"),
        r"kd/robust-to-small/seed-0, of kd, and "
        r"KD/robust-to-small/seed-0, of KD, would be one folder or record",
    ),
    "last weights": (
        ("evaluate: {", "evaluate: {which: [last], "),
        r"evaluate.which was last; a verdict rests on the best weights by validation; leave it out",
    ),
    "both weights": (("evaluate: {", "evaluate: {which: [best, last], "), r"evaluate.which was best, last; a verdict"),
    "seeds twice": (
        ("seeds: [0]", "seeds: [1, 1]"),
        r"seeds: was \[1, 1\]; it is a list of at least one seed, each onc",
    ),
    "seeds are no list": (("seeds: [0]", "seeds: 3"), r"seeds: was 3; it is a list"),
    "no seeds": (("seeds: [0]", "seeds: []"), r"seeds: was \[\]; it is a list"),
    "a negative seed": (("seeds: [0]", "seeds: [-1]"), r"seeds: was \[-1\]; it is a list"),
    "more explained than attacked": (
        ("explain: {examples: 6", "explain: {examples: 9"),
        r"explain.examples was 9 and AutoAttack sees 8 test images",
    ),
    "no autoattack": (
        ("[clean, autoattack]", "[clean, pgd-20]"),
        r"evaluate.attacks was clean, pgd-20; a verdict rests on"
        " clean and autoattack",
    ),
    "no clean": (
        ("[clean, autoattack]", "[autoattack]"),
        r"evaluate.attacks was autoattack; a verdict rests on clean and",
    ),
    "tuned on no pair": (
        ("explain:", "tune: {student: big}\nexplain:"),
        r"tune: robust-to-big is not among the pairs: "
        r"robust-to-small \(tiny.yaml:17\)",
    ),
    "no trials": (("explain:", "tune: {trials: 0}\nexplain:"), r"trials was 0; it must be at least 1"),
    "a student of both kinds": (
        ("judged:", OLD.replace("old:", "small:")),
        r"pretrained.students.small: is also among stud",
    ),
    "a teacher of pretrained": (
        ("judged:", OLD.replace("judged", "  teachers: [rob]\njudged")),
        r"pretrained.teachers: 'ro",
    ),
    "methods of pretrained": (
        ("judged:", OLD.replace("judged", "  methods: {kdgia: kdiga}\njudged")),
        r"pretrained.methods.kdgia: is not among methods",
    ),
    "no section of methods": (
        ("judged:", OLD.replace("judged", "  methods: [kdiga]\njudged")),
        r"pretrained.methods: Input should be a valid dictionary \(was \['kdiga'\]\)",
    ),
    "at_most": (
        ("judged:", OLD.replace("judged", "  at_most: much\njudged")),
        r"pretrained.at_most: Input should be a valid number.* \(was 'much'\)",
    ),
    "tune_trials": (
        ("judged:", OLD.replace("judged", "  tune_trials: 0\njudged")),
        r"pretrained: tune_trials was 0; it must be at least 1",
    ),
    "tune_epochs": (
        ("judged:", OLD.replace("judged", "  tune_epochs: x\njudged")),
        r"pretrained.tune_epochs: Input should be a valid integer.* \(was 'x'\)",
    ),
    "a study": (("data: {", "base: {}\ndata: {"), r"'tiny.yaml' is not a claims recipe; run it with `kdiga study`"),
    "a run's recipe": (
        ("judged:", "method: kd\njudged:"),
        r"'tiny.yaml' is not a claims recipe; run it with `kdiga train`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, claims):
    replaced, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        claims(replaced)
    assert not Path("out").exists()


def test_searches_that_would_share_a_folder(claims):
    """A search on a pre-trained student is called by both labels, which may be another method's."""
    with pytest.raises(InputError, match=r"tuning/kd-old/trial-00, of kd-old, and tuning/kd-old/trial-00, of kd,"):
        claims(("  kd: kd\n", "  kd: kd\n  kd-old: kd\n"), text=WIDE)


def test_runs_that_would_share_a_record(claims):
    """A record's name is its folder's with -- for the slashes, which labels may have of their own."""
    with pytest.raises(InputError, match=r"kd--a/robust-to-small/seed-0, of kd--a, would be one folder or record"):
        claims(
            ("  robust:", "  robust: {student: cnn-8, method: ce}\n  a--robust:"),
            ("  kd: kd\n", "  kd: kd\n  kd--a: kd\n"),
        )


def test_all_problems_are_told_at_once(claims):
    with pytest.raises(InputError) as error:
        claims(("seeds: [0]", "seeds: 0"), ("judged: [kdiga, tangent]", "judged: [a, b]\nevalute: {}"))
    assert len(str(error.value).splitlines()) == 4


def test_a_file_of_another_kind(claims, tmp_path):
    recipes = Path(__file__).parents[3] / "recipes"
    with pytest.raises(InputError, match=r"study-digits.yaml' is not a claims recipe; run it with `kdiga study`"):
        load_claims(recipes / "study-digits.yaml")
    shutil.copy(recipes / "digits-kdiga.yaml", tmp_path / "one.yaml")
    with pytest.raises(InputError, match=r"'one.yaml' is not a claims recipe; run it with `kdiga train`"):
        load_claims("one.yaml")
    with pytest.raises(InputError, match=r"claims recipe 'none.yaml' cannot be read"):
        load_claims("none.yaml")
