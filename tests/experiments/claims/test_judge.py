"""Claims a to e, judged from runs' folders that were written by hand: what is planted is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from kdiga.certification.certificate import share
from kdiga.data.image_set import ImageSet
from kdiga.experiments.board import RunBoard
from kdiga.experiments.claims.evidence import Evidence, effect
from kdiga.experiments.claims.judges import (
    judge_all,
    judge_bounds,
    judge_certified,
    judge_kd,
    judge_pretrained,
    judge_transfer,
    ranked,
)
from kdiga.experiments.claims.plan import Pair
from kdiga.runs.fingerprints import fingerprint_of_images

RECIPE = """\
data: {name: digits, train_examples: 300}
threat: {norm: linf, eps: 0.05}
training: {epochs: 2, batch_size: 16}
teachers:
  robust: {student: cnn-8, method: {name: pgd-at, steps: 2}}
students: {small: cnn-4, wide: cnn-8}
pretrained:
  students: {old: {name: cnn-4, weights: old.pt, normalization: none}}
methods: {ce: ce, kd: kd, pgd-at: {name: pgd-at, steps: 2}, kdiga: kdiga, tangent: tangent}
judged: [kdiga, tangent]
seeds: [0, 1]
evaluate: {attacks: [clean, autoattack], examples: 200, autoattack_examples: 100}
explain: {examples: 40}
"""
ATTACKED, CLEAN, EXPLAINED = 100, 200, 40
TEST = ImageSet(torch.zeros(360, 1, 2, 2, dtype=torch.uint8), torch.arange(360) % 10, tuple("0123456789"))
SMALL, WIDE, OLD = Pair("robust", "small"), Pair("robust", "wide"), Pair("robust", "old", pretrained=True)


def first(count, images):
    """The first so many images are right: whoever has more of them right has all of the others', too."""
    return [place < count for place in range(images)]


class Planted:
    """Folders of runs, as they would be."""

    def __init__(self, checked):
        self.checked, self.out = checked, checked.out

    def write(self, folder, name, content):
        path = self.out / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def run(self, folder, *, robust, clean=160, **files):
        """A finished run with so many images right under AutoAttack, and of all."""
        correct = {"clean": first(clean, CLEAN), "autoattack": first(robust, ATTACKED)}
        accuracy = {name: sum(row) / len(row) for name, row in correct.items()}
        self.write(folder, "result.json", {"method": "any", "minutes": 1.0})
        self.write(folder, "best-test.json", {"correct": correct, "accuracy": accuracy})
        if folder.startswith("starts/"):
            self.write(folder, "best-validation.json", {"accuracy": {"clean": clean / CLEAN}})
        run_spec = next(run_spec for run_spec in self.checked.run_specs if run_spec.folder == folder)
        for step in run_spec.after:
            default = certificate([1.0], [1.0]) if step.file == "certificate.json" else explanation(0.0, robust)
            self.write(folder, step.file, files.get(step.file.removesuffix(".json"), default))

    def method(self, label, pair, *, robust, clean=(160, 160)):
        name = pair if isinstance(pair, str) else pair.name
        for seed, (right, of_all) in enumerate(zip(robust, clean, strict=True)):
            self.run(f"{label}/{name}/seed-{seed}", robust=right, clean=of_all)

    def diverged(self, folder):
        self.write(folder, "failure.json", {"status": "diverged", "error": "the loss is nan", "time": 0.0})

    @property
    def evidence(self):
        return Evidence(self.checked.grid, RunBoard(self.checked.run_specs, self.out), TEST)


def radii(student, teacher, **more):
    """One kind of radius, image by image, as a run's certificate has it."""
    flags = [
        own >= taught
        for own, taught in zip(student, teacher, strict=True)
        if own is not None and taught not in (None, 0)
    ]
    of_all, interval = share(flags)
    return {
        "teacher_radius": teacher,
        "student_radius": student,
        "compared": len(flags),
        "share_at_least_teacher": of_all,
        "share_interval_95": interval,
    } | more


def certificate(student, teacher, rho=None, lipschitz=None, smoothing=None):
    unknown = [None] * len(student)
    clever = radii(
        student,
        teacher,
        rho=rho or unknown,
        teacher_lipschitz=lipschitz or unknown,
        alignment={"median_guaranteed_over_measured": 0.25},
    )
    return {"settings": {}, "clever": clever, "smoothing": radii(*(smoothing or (student, teacher)))}


def explanation(level, seed, values=None):
    """A student's bounds: ``level``, give or take what differs from image to image."""
    noise = np.random.default_rng(seed).normal(0, 0.05, EXPLAINED)
    table = values or (level + noise).tolist()
    bound = {"mean": level, "measured": level / 2, "tightness": 0.5, "violations": 0}
    names = ("student bound", "transfer bound", "local linearity", "gradient distance", "gradient cosine")
    return {
        "settings": {},
        "data_fingerprint": fingerprint_of_images(TEST.take(slice(EXPLAINED))),
        "linearity": 0.1,
        "cosine": 0.6,
        "bounds": {"student": bound, "transfer": bound},
        "values": dict.fromkeys(names, table),
    }


@pytest.fixture
def planted(claims):
    found = Planted(claims(text=RECIPE))
    found.run("teachers/robust", robust=60, clean=150)
    return found


def rows_of(claim, label=None):
    return {(row["method"], row["student"]): row for row in claim["rows"] if label in (None, row["method"])}


# a and b


def test_kd_that_keeps_nothing_kd_that_keeps_all_and_kd_of_which_one_cannot_tell(planted):
    planted.method("ce", "small", robust=(1, 2), clean=(170, 172))
    planted.method("ce", "wide", robust=(2, 2))
    for robust, expected in (((5, 6), "supported"), ((70, 71), "contradicted"), ((54, 55), "undecided")):
        planted.method("kd", SMALL, robust=robust)
        claim = judge_kd(planted.evidence, [SMALL])
        (row,) = claim["rows"]
        assert row["verdict"] == expected
        assert row["robust"] == pytest.approx(sum(robust) / 200)
        theirs = [first(60, ATTACKED)]
        assert row["against_share"] == effect([first(count, ATTACKED) for count in robust], theirs, 0.9).to_list()
        assert row["against_teacher"] == effect([first(count, ATTACKED) for count in robust], theirs).to_list()
        assert row["against_plain"][0] == pytest.approx(sum(robust) / 200 - 0.015)
    assert (row["teacher_robust"], row["plain_robust"], row["plain_clean"], row["clean"]) == pytest.approx(
        (0.6, 0.015, 171 / 200, 0.8)
    )
    assert claim["methods"] == ["kd"]


def test_a_student_preserves_or_does_not(planted):
    planted.method("kdiga", SMALL, robust=(70, 71))
    planted.method("kdiga", WIDE, robust=(20, 21))
    planted.method("tangent", SMALL, robust=(54, 54))
    planted.method("kd", SMALL, robust=(59, 59))
    planted.method("pgd-at", "small", robust=(58, 58))
    claim = judge_transfer(planted.evidence, [SMALL, WIDE])
    found = {key: row["verdict"] for key, row in rows_of(claim).items()}
    assert found == {
        ("kdiga", "small"): "supported",
        ("kdiga", "wide"): "contradicted",
        ("tangent", "small"): "undecided",
        ("tangent", "wide"): "undecided",
        ("kd", "small"): "supported",
        ("kd", "wide"): "undecided",
        ("pgd-at", "small"): "supported",
        ("pgd-at", "wide"): "undecided",
    }
    assert next(iter(found)) == ("kdiga", "small"), "the judged stand first, and ce, which claims nothing, nowhere"
    assert claim["methods"] == ["kdiga", "tangent"]
    assert rows_of(claim)["pgd-at", "small"]["robust"] == 0.58, "of the student alone, held against each teacher"
    judged = judge_all(planted.evidence)["b"]
    assert judged["verdict"] == judged["verdicts"]["kdiga"] == "undecided"
    assert judged["counts"]["kdiga"] == {"supported": 1, "contradicted": 1, "undecided": 0}
    assert set(judged["counts"]) == {"kdiga", "tangent"}, "those beside are not counted"


def test_the_share_that_counts_as_preserved_is_the_recipes(claims, planted):
    planted.method("kdiga", SMALL, robust=(50, 50))
    assert judge_transfer(planted.evidence, [SMALL])["rows"][0]["verdict"] == "undecided"
    lower = Planted(claims(("explain:", "rules: {kept: 0.5}\nexplain:"), text=RECIPE))
    assert judge_transfer(lower.evidence, [SMALL])["rows"][0]["verdict"] == "supported"


def test_a_student_that_diverged_is_wrong_on_every_image(planted):
    for seed in (0, 1):
        planted.diverged(f"kdiga/robust-to-small/seed-{seed}")
        planted.diverged(f"kd/robust-to-small/seed-{seed}")
    row = judge_transfer(planted.evidence, [SMALL])["rows"][0]
    assert (row["robust"], row["clean"], row["diverged"], row["verdict"]) == (0.0, 0.0, 2, "contradicted")
    assert row["against_teacher"] == effect([[False] * ATTACKED] * 2, [first(60, ATTACKED)]).to_list()
    assert judge_kd(planted.evidence, [SMALL])["rows"][0]["verdict"] == "supported", "it preserves nothing"
    # One of two: half of the other's accuracy, and two seeds that disagree decide nothing.
    planted.method("tangent", SMALL, robust=(80, 80))
    (planted.out / "tangent/robust-to-small/seed-1/result.json").unlink()
    planted.diverged("tangent/robust-to-small/seed-1")
    row = rows_of(judge_transfer(planted.evidence, [SMALL]))["tangent", "small"]
    assert (row["robust"], row["diverged"], row["verdict"]) == (0.4, 1, "undecided")


def test_missing_runs_decide_nothing(planted):
    planted.method("kd", SMALL, robust=(5, 6))
    judged = judge_all(planted.evidence)
    assert judged["a"]["rows"][0]["verdict"] == "supported", "plain training stands beside and is not needed"
    assert judged["a"]["rows"][0]["against_plain"] is None
    assert {name: claim["verdict"] for name, claim in judged.items()} == {
        "a": "supported",
        "b": "undecided",
        "c": "undecided",
        "d": "undecided",
        "e": "undecided",
    }
    (planted.out / "kd/robust-to-small/seed-1/result.json").unlink()
    row = judge_kd(planted.evidence, [SMALL])["rows"][0]
    assert (row["robust"], row["verdict"]) == (0.05, "supported"), "the seed that has ended counts"
    (planted.out / "kd/robust-to-small/seed-0/result.json").unlink()
    row = judge_kd(planted.evidence, [SMALL])["rows"][0]
    assert (row["robust"], row["verdict"]) == (None, "undecided")
    planted.method("kd", SMALL, robust=(5, 6))
    (planted.out / "teachers/robust/best-test.json").unlink()
    row = judge_kd(planted.evidence, [SMALL])["rows"][0]
    assert (row["teacher_robust"], row["verdict"]) == (None, "undecided")


def test_seeds_that_have_ended_count(claims):
    """Of three seeds each has others: whoever has more is held against as many as both have."""
    planted = Planted(claims(("[0, 1]", "[0, 1, 2]"), text=RECIPE))
    planted.run("teachers/robust", robust=60, clean=150)
    planted.method("ce", "small", robust=(1, 2, 3), clean=(170, 172, 174))
    for ended in ([5], [5, 6], [5, 6, 7]):
        planted.method("kd", SMALL, robust=ended, clean=[160] * len(ended))
        row = judge_kd(planted.evidence, [SMALL])["rows"][0]
        assert row["robust"] == pytest.approx(np.mean(ended) / 100)
        assert row["verdict"] == "supported"
        ours, plain = ([first(count, ATTACKED) for count in counts] for counts in (ended, (1, 2, 3)[: len(ended)]))
        assert row["against_plain"] == effect(ours, plain).to_list()
    (planted.out / "ce/small/seed-1/result.json").unlink()
    row = judge_kd(planted.evidence, [SMALL])["rows"][0]
    assert row["plain_robust"] == 0.02
    assert row["against_plain"] == effect(ours[::2], plain[::2]).to_list(), "each seed is compared with itself"
    (planted.out / "ce/small/seed-2/result.json").unlink()
    (planted.out / "kd/robust-to-small/seed-0/result.json").unlink()
    assert judge_kd(planted.evidence, [SMALL])["rows"][0]["against_plain"] is None, "no seed is common"


# c


@pytest.mark.parametrize(
    ("robust", "clean", "expected"),
    [
        ((40, 41), (180, 181), "supported"),
        ((40, 41), (150, 151), "contradicted"),  # robust, but 30 images of 200 the fewer
        ((3, 3), (180, 180), "contradicted"),  # gained nothing
        ((9, 10), (180, 180), "undecided"),  # some 7 points, give or take some
        ((40, 41), (178, 178), "undecided"),  # exactly one point lost
    ],
)
def test_a_pretrained_student(planted, robust, clean, expected):
    planted.run("starts/old", robust=2, clean=180)
    planted.method("kdiga", OLD, robust=robust, clean=clean)
    claim = judge_pretrained(planted.evidence, [OLD])
    row = rows_of(claim)["kdiga", "old"]
    assert row["verdict"] == expected
    assert (row["start_robust"], row["start_clean"]) == (0.02, 0.9)
    assert row["gained"][0] == pytest.approx(sum(robust) / 200 - 0.02)
    assert row["kept"][0] == pytest.approx(sum(clean) / 400 - 0.9)
    assert rows_of(claim)["kd", "old"]["verdict"] == "undecided"
    assert not rows_of(claim, "ce"), "which is not run on it"


def test_a_pretrained_student_that_diverged_lost_everything(planted):
    planted.run("starts/old", robust=2, clean=180)
    planted.method("kdiga", OLD, robust=(90, 90), clean=(190, 190))
    for seed in (0, 1):
        planted.diverged(f"tangent/robust-to-old/seed-{seed}")
    claim = judge_pretrained(planted.evidence, [OLD])
    assert rows_of(claim)["kdiga", "old"]["verdict"] == "supported"
    row = rows_of(claim)["tangent", "old"]
    assert (row["clean"], row["diverged"], row["verdict"]) == (0.0, 2, "contradicted")
    (planted.out / "starts/old/best-validation.json").unlink()
    assert rows_of(judge_pretrained(planted.evidence, [OLD]))["kdiga", "old"]["verdict"] == "undecided"


# d


def certified(planted, content, label="kdiga"):
    planted.run(f"{label}/robust-to-small/seed-0", robust=50, certificate=content)
    claim = judge_certified(planted.evidence, [SMALL])
    return {row["kind"]: row for row in claim["rows"] if row["method"] == label}


def test_radii(planted):
    teacher = [0.02] * 50
    found = certified(planted, certificate([0.03] * 50, teacher, smoothing=([0.01] * 25 + [0.03] * 25, teacher)))
    assert (found["clever"]["verdict"], found["smoothing"]["verdict"]) == ("supported", "contradicted")
    assert (found["clever"]["share"], found["smoothing"]["share"]) == (1.0, 0.5)
    assert found["clever"]["interval"] == share([True] * 50)[1]
    assert (found["clever"]["median_radius"], found["clever"]["median_teacher_radius"]) == (0.03, 0.02)
    assert found["clever"]["guaranteed_over_measured"] == 0.25
    found = certified(planted, certificate([0.03] * 44 + [0.01] * 6, teacher))
    assert found["clever"]["verdict"] == "undecided", "44 of 50 may be 90 % and may be less"
    nothing = certified(planted, certificate([None] * 50, teacher))
    assert (nothing["clever"]["share"], nothing["clever"]["median_radius"], nothing["clever"]["verdict"]) == (
        None,
        None,
        "undecided",
    )


def test_radii_where_the_theorem_speaks(planted):
    """Of five images two have rho / L <= 0.5, a radius on both sides, and a teacher's above 0: one of them holds."""
    student = [0.03, 0.01, 0.03, None, 0.03]
    teacher = [0.02, 0.02, 0.02, 0.02, 0.0]
    rho, lipschitz = [1.0, 0.5, 3.0, 0.1, 0.1], [2.0, 2.0, 2.0, 2.0, 2.0]
    row = certified(planted, certificate(student, teacher, rho, lipschitz))["clever"]
    assert (row["aligned"], row["share_of_aligned"]) == (2, 0.5)
    assert row["share_of_aligned_95"] == share([True, False])[1]
    assert row["rho_over_lipschitz"] == pytest.approx(0.25), "the median of 0.5, 0.25, 1.5, 0.05 and 0.05"
    # Without a constant, or with one of 0, there is no ratio.
    row = certified(planted, certificate(student, teacher, [1.0, None, 1.0, 1.0, 1.0], [0.0, 2.0, None, 4.0, 4.0]))
    assert (row["clever"]["aligned"], row["clever"]["share_of_aligned"]) == (0, None)
    assert row["clever"]["rho_over_lipschitz"] == 0.25


def test_radii_rest_on_the_first_seeds_student(planted):
    planted.diverged("kdiga/robust-to-small/seed-1")
    found = {row["kind"]: row for row in judge_certified(planted.evidence, [SMALL])["rows"] if row["method"] == "kdiga"}
    assert {row["verdict"] for row in found.values()} == {"undecided"}, "the first was not measured"
    planted.diverged("tangent/robust-to-small/seed-0")
    claim = judge_certified(planted.evidence, [SMALL])
    assert [row["verdict"] for row in claim["rows"] if row["method"] == "tangent"] == ["contradicted"] * 2
    assert [row["diverged"] for row in claim["rows"]] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert [row["method"] for row in claim["rows"][::2]] == ["kdiga", "tangent", "kd", "pgd-at"]


def test_a_student_without_a_teacher_is_held_against_one_alone(claims):
    more = ("students: {small", "  other: {student: cnn-8, method: {name: pgd-at, steps: 2}}\nstudents: {small")
    planted = Planted(claims(more, text=RECIPE))
    planted.run("pgd-at/small/seed-0", robust=50)
    other = Pair("other", "small")
    rows = [row for row in judge_certified(planted.evidence, [SMALL, other])["rows"] if row["method"] == "pgd-at"]
    assert [(row["teacher"], row["kind"], row["share"]) for row in rows] == [
        ("robust", "clever", 1.0),
        ("robust", "smoothing", 1.0),
    ]
    assert [row["teacher"] for row in judge_bounds(planted.evidence, [SMALL, other])["rows"]] == ["robust"]


# e


def test_the_rank_correlation_is_scipys():
    generator = np.random.default_rng(4)
    for models in (3, 6, 12):
        values, right = generator.normal(size=(models, 30)), generator.random((models, 30)) < 0.5
        found = ranked(values.tolist(), right.tolist(), seed=0)
        expected = spearmanr(values.mean(1), right.mean(1)).statistic
        assert found["spearman"] == pytest.approx(expected)
        assert found["students"] == models
        assert found["interval_95"][0] <= found["spearman"] <= found["interval_95"][1]
        assert ranked(values.tolist(), right.tolist(), seed=0) == found
    assert ranked(values.tolist(), right.tolist(), seed=1)["interval_95"] != found["interval_95"]


def test_the_interval_of_a_ranking_is_over_students_and_images():
    """That over images alone, the students staying as they are, would be far too sure of itself."""
    levels = np.linspace(0, 1, 8)
    right = [[place < 2 * level + 20 for place in range(40)] for level in range(8)]
    sharp = ranked(np.repeat(levels[:, None], 40, 1).tolist(), right, seed=0)
    assert sharp["spearman"] == pytest.approx(1.0)
    assert sharp["interval_95"][0] > 0.7
    swapped = levels[[1, 0, 3, 2, 5, 4, 7, 6]]
    found = ranked(np.repeat(swapped[:, None], 40, 1).tolist(), right, seed=0)
    assert found["spearman"] == pytest.approx(spearmanr(swapped, levels).statistic)
    assert found["interval_95"][1] - found["interval_95"][0] > 0.2, "with other students it might have been otherwise"


def test_what_is_not_defined_is_left_out_of_a_students_mean():
    right = [first(count, 4) for count in (1, 2, 3)]
    values = [[0.0, 0.0, None, None], [1.0, None, None, 1.0], [None, 2.0, 2.0, 2.0]]
    assert ranked(values, right, 0)["spearman"] == pytest.approx(1.0)
    assert ranked([[None] * 4, *values[1:]], right, 0) == {"spearman": None, "interval_95": None, "students": 3}
    assert ranked(values[:2], right[:2], 0) == {"spearman": None, "interval_95": None, "students": 2}


BOUNDED = [(label, pair) for label in ("kd", "kdiga", "tangent") for pair in (SMALL, WIDE)]


def plant_bounds(planted, sign):
    """Six students, evenly more robust, whose bounds grow or shrink with that."""
    for place, (label, pair) in enumerate(BOUNDED):
        robust = 20 + 12 * place
        folder = f"{label}/{pair.name}/seed-0"
        planted.run(folder, robust=robust, explanation=explanation(1 + sign * 0.15 * place, place))
        # The first images are right, so let the ones that are explained be a fair share.
        path = planted.out / folder / "best-test.json"
        report = json.loads(path.read_text())
        spread = np.random.default_rng(place).permutation(EXPLAINED) < EXPLAINED * robust / 100
        report["correct"]["autoattack"] = [*spread.tolist(), *first(robust, ATTACKED - EXPLAINED)]
        path.write_text(json.dumps(report))
        planted.diverged(f"{label}/{pair.name}/seed-1")


def test_bounds_that_order_students_as_the_attack_does(planted):
    plant_bounds(planted, -1)  # a smaller bound promises more
    claim = judge_bounds(planted.evidence, [SMALL, WIDE])
    assert len(claim["rows"]) == 6
    found = claim["rankings"]["all"]["student bound"]
    assert found["spearman"] == pytest.approx(1.0)
    cosine = claim["rankings"]["all"]["gradient cosine"]
    assert cosine["spearman"] == pytest.approx(-1.0), "a larger cosine promises more"
    assert 0.5 <= found["interval_95"][0] < 1
    assert claim["rankings"]["all"]["transfer bound"] == found
    assert claim["verdicts"]["all"] == "supported"
    assert claim["methods"] == ["all", "kdiga", "tangent"]
    assert claim["rankings"]["kdiga"]["student bound"] == {"spearman": None, "interval_95": None, "students": 2}
    assert claim["verdicts"]["kdiga"] == "undecided"
    row = next(row for row in claim["rows"] if (row["method"], row["student"]) == ("kdiga", "wide"))
    assert row["robust"] == pytest.approx(0.55, abs=0.03), "15 or so of the 40 images that are explained"
    assert (row["student_tightness"], row["transfer_violations"], row["cosine"]) == (0.5, 0, 0.6)


def test_students_of_one_teacher_are_ranked_beside_and_decide_nothing(claims):
    """Each teacher's are in order, and all together are not: its own level is added to the bound."""
    text = RECIPE.replace("teachers:", "teachers:\n  other: {student: cnn-8, method: {name: pgd-at, steps: 2}}")
    planted = Planted(claims(text=text))
    pairs = [Pair(teacher, student) for teacher in ("robust", "other") for student in ("small", "wide")]
    for label in ("kd", "kdiga", "tangent"):
        for pair in pairs:
            place = 2 * ("kd", "kdiga", "tangent").index(label) + (pair.student == "wide")
            level = 1 - 0.05 * place + 5 * (pair.teacher == "other") * (place + 1)
            folder = f"{label}/{pair.name}/seed-0"
            planted.run(folder, robust=5 + 6 * place, explanation=explanation(level, place))
            planted.diverged(f"{label}/{pair.name}/seed-1")
    claim = judge_bounds(planted.evidence, pairs)
    found = {name: ranks["student bound"]["spearman"] for name, ranks in claim["rankings"].items()}
    assert list(found) == ["all", "kdiga", "tangent", "from robust", "from other"]
    assert found["from robust"] == pytest.approx(1.0)
    assert found["from other"] == pytest.approx(-1.0)
    assert abs(found["all"]) < 0.5
    assert claim["rankings"]["from robust"]["student bound"]["students"] == 6
    assert claim["methods"] == list(claim["verdicts"]) == ["all", "kdiga", "tangent"]


def test_bounds_that_order_them_the_other_way_round(planted):
    plant_bounds(planted, +1)
    claim = judge_bounds(planted.evidence, [SMALL, WIDE])
    assert claim["rankings"]["all"]["student bound"]["spearman"] == pytest.approx(-1.0)
    assert claim["verdicts"]["all"] == "contradicted"
    judged = judge_all(planted.evidence)["e"]
    assert (judged["verdict"], judged["methods"][0]) == ("contradicted", "all")


def test_one_bound_that_fails_is_enough(planted):
    plant_bounds(planted, -1)
    for label, pair in BOUNDED:
        path = planted.out / label / pair.name / "seed-0/explanation.json"
        content = json.loads(path.read_text())
        content["values"]["transfer bound"] = [-value for value in content["values"]["transfer bound"]]
        path.write_text(json.dumps(content))
    claim = judge_bounds(planted.evidence, [SMALL, WIDE])
    assert claim["rankings"]["all"]["student bound"]["spearman"] == pytest.approx(1.0)
    assert claim["verdicts"]["all"] == "contradicted"


def test_bounds_of_other_images_than_the_attacked_order_nothing(planted):
    plant_bounds(planted, -1)
    for number, (label, pair) in enumerate(BOUNDED[:4]):
        path = planted.out / label / pair.name / "seed-0/explanation.json"
        content = json.loads(path.read_text())
        others = {"data_fingerprint": fingerprint_of_images(TEST.take(slice(1, EXPLAINED + 1)))}
        content = content | others if number else {key: content[key] for key in content if key not in others}
        path.write_text(json.dumps(content))
    claim = judge_bounds(planted.evidence, [SMALL, WIDE])
    assert [row["robust"] is None for row in claim["rows"]] == [True] * 4 + [False] * 2
    assert claim["rankings"]["all"]["student bound"] == {"spearman": None, "interval_95": None, "students": 2}
    assert claim["verdicts"]["all"] == "undecided"


def test_without_explanations_there_is_no_ranking(planted):
    claim = judge_bounds(planted.evidence, [SMALL, WIDE])
    assert (claim["rows"], claim["rankings"]["all"], claim["verdicts"]["all"]) == ([], {}, "undecided")


def test_folders_are_read_where_they_are(planted):
    assert Path("out/teachers/robust/best-test.json").is_file()
    evidence = planted.evidence
    assert evidence.one_model("teachers/robust") == {None: first(60, ATTACKED)}
    assert evidence.one_model("teachers/robust", "clean") == {None: first(150, CLEAN)}
    assert evidence.student("ce", SMALL) is None
    assert [run_spec.folder for run_spec in evidence.run_specs("pgd-at", SMALL)] == [
        "pgd-at/small/seed-0",
        "pgd-at/small/seed-1",
    ]
    assert evidence.run_specs("ce", OLD) == []
