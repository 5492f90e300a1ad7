"""A test of the claims from start to end, in pieces, of teachers that have nothing to give, and of what diverges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.image import imread

from kdiga.errors import InputError
from kdiga.experiments import run_one
from kdiga.report.claims import CLAIMS, verdict_line
from kdiga.report.claims_pictures import PICTURES
from kdiga.results.studies import ClaimsResult
from tests.conftest import few_iterations
from tests.experiments.claims.conftest import go, loader, pgd_for_autoattack

RUNS = [
    "teachers/robust",
    *(
        f"{label}/seed-0"
        for label in (
            "ce/small",
            "kd/robust-to-small",
            "kdiga/robust-to-small",
            "tangent/robust-to-small",
        )
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, data):
    """A folder with a finished test, under the official AutoAttack."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, few_iterations():
        patch.chdir(folder)
        content, ended = go(loader(folder)(), data)
    assert ended == RUNS
    return folder, content


@pytest.fixture(scope="module")
def quick_project(tmp_path_factory, data):
    """The same under an attack of less time, to be interrupted and changed."""
    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch, pgd_for_autoattack():
        patch.chdir(folder)
        content, _ = go(loader(folder)(), data)
    return folder, content


@pytest.fixture
def copied(quick_project, claims, tmp_path, quick):
    """A copy of its records, and what loads its recipe."""
    folder, content = quick_project
    shutil.copytree(folder / "results/tiny", "results/tiny")
    return claims, content


def without_time(content):
    """What a second start has to come to as well."""
    kept = ("folder", "status", "accuracy", "interval_95", "passes", "parameters", "error")
    runs = [{key: run[key] for key in kept} for run in content["runs"]]
    return {key: content[key] for key in ("claims", "rules", "attacks", "done", "total", "coefficients")} | {
        "runs": runs
    }


def pictures(content, folder, names):
    """Check that these pictures are there, none else, and that something is drawn on them."""
    drawn = {name for name, draw in PICTURES.items() if draw(ClaimsResult.model_validate(content)) is not None}
    assert drawn == set(names)
    for name in names:
        image = imread(folder / f"claims-{name}.png")
        assert image.shape[0] > 100
        assert image.shape[1] > 500
        inked = (image[..., :3].min(-1) < 0.9).mean()
        assert 0.002 < inked < 0.5, name


def test_from_start_to_end(project):
    folder, content = project
    assert content == json.loads((folder / "out/claims.json").read_text())
    assert (content["done"], content["total"]) == (5, 5)
    assert [run["status"] for run in content["runs"]] == ["done"] * 5
    assert content["attacks"] == {"clean": 40, "autoattack": 8}
    assert [run["folder"] for run in content["runs"]] == RUNS
    report = json.loads((folder / "out" / RUNS[3] / "best-test.json").read_text())
    assert content["runs"][3]["accuracy"] == report["accuracy"]
    assert report["version"] == "standard", "AutoAttack itself, as it was published"
    assert len(report["stages"]) > 0
    assert {name: len(row) for name, row in report["correct"].items()} == content["attacks"]
    assert set(content["claims"]) == set(CLAIMS)
    row = content["claims"]["b"]["rows"][0]
    assert (row["method"], row["robust"]) == ("kdiga", report["accuracy"]["autoattack"])
    explained = json.loads((folder / "out" / RUNS[3] / "explanation.json").read_text())
    assert all(len(values) == 6 for values in explained["values"].values())
    assert {bound["violations"] for bound in explained["bounds"].values()} == {0}
    certificate = json.loads((folder / "out" / RUNS[3] / "certificate.json").read_text())
    assert len(certificate["clever"]["student_radius"]) == len(certificate["smoothing"]["student_radius"]) == 6
    assert certificate["teacher"] == explained["teacher"] == "teachers/robust"
    right = [radius != 0 for radius in certificate["clever"]["student_radius"]]
    assert right == report["correct"]["clean"][:6], "the images that were attacked"
    assert content["claims"]["e"]["rows"][0]["robust"] is not None
    assert explained["data_fingerprint"] == certificate["data_fingerprint"]
    assert not (folder / "out" / RUNS[4] / "last-test.json").exists()


def test_the_page(project):
    folder, content = project
    page = (folder / "out/claims.md").read_text()
    lines = [verdict_line(ClaimsResult.model_validate(content), name) for name in CLAIMS]
    assert len(set(lines)) == 5
    for name, line in zip(CLAIMS, lines, strict=True):
        assert f"## {name}. {CLAIMS[name]}\n\n**{line}**\n\nRule: " in page
    assert lines[2] == "Not tested."
    assert (
        "| c. Robustness goes into a pre-trained student without loss of clean accuracy. | **not tested** | - |" in page
    )
    pictures(content, folder / "out", [*"abde", "epochs"])
    claims = ClaimsResult.model_validate(content)
    for run in claims.runs:
        del run.history[2:]
    ticks = PICTURES["epochs"](claims).axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks), "epochs are whole numbers"
    for name in "abde":
        assert f"![Claim {name}](claims-{name}.png)" in page
    assert "claims-c.png" not in page
    assert "kdiga claims tiny.yaml --out out" in page
    assert "linf eps 0.05; seeds 0; test images: clean 40, AutoAttack 8." in page
    assert "More than 6 test images for claim d and 6 for claim e." in page
    assert "Other seeds: with one seed, the intervals cover images only." in page
    assert str(folder) not in page


def test_a_second_start_runs_nothing(project, data, monkeypatch):
    folder, content = project
    monkeypatch.chdir(folder)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "seed-" in str(path)}
    again, ended = go(loader(folder)(), data)
    assert ended == []
    assert without_time(again) == without_time(content)
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "seed-" in str(path)}
    # Nor does one without the runs' folder: all of it comes back from the records.
    shutil.move(folder / "out", folder / "before")
    try:
        again, ended = go(loader(folder)(), data)
        assert ended == []
        assert without_time(again) == without_time(content)
        assert (folder / "out/claims.md").read_text() == (folder / "before/claims.md").read_text()
        for name in "abde":
            assert (folder / f"out/claims-{name}.png").is_file()
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.move(folder / "before", folder / "out")


def test_an_interrupted_test_goes_on_to_the_same_outcome(copied, data):
    load, whole = copied
    shutil.rmtree("results/tiny")
    ended = []

    def stop(watch):
        if watch.ended:
            ended.append(watch.ended)
        if len(ended) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(load(), data, on_progress=stop)
    assert ended == RUNS[:2]
    # What is there by then can be judged, and drawn.
    checked = load()
    content = checked.report(checked.open(data), data)
    assert [run["status"] for run in content["runs"]] == ["done", "done", "open", "open", "open"]
    assert {claim["verdict"] for claim in content["claims"].values()} == {"undecided"}
    page = Path("out/claims.md").read_text()
    missing = "; ".join(f"{label}: robust-to-small (seed 0)" for label in ("kd", "kdiga", "tangent"))
    assert f"- 3 runs have no result yet. {missing}." in page
    # Each claim's table has what was measured, and no lines of dashes.
    assert page.count("1 of 1 rows have no result and are left out.") == 1, "claim a"
    assert page.count("3 of 3 rows have no result and are left out.") == 1, "claim b"
    assert "| - | - |" not in page.partition("## Models")[0]
    assert f"| {RUNS[1].removesuffix('/seed-0')} |" in page
    assert f"| {RUNS[2].removesuffix('/seed-0')} |" not in page
    pictures(content, Path("out"), "a")
    content, ended = go(load(), data)
    assert ended == RUNS[2:]
    assert without_time(content) == without_time(whole)
    assert "no result yet" not in Path("out/claims.md").read_text()


def test_a_figure_of_runs_that_are_still_open_has_numbers_on_its_axes(copied, data):
    """Where no student has a result, the teacher alone is drawn."""
    load, _ = copied
    for path in Path("results/tiny").glob("k*.json"):
        path.unlink()
    checked = load()
    content = checked.report(checked.open(data), data)
    axes = PICTURES["a"](ClaimsResult.model_validate(content)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["robust → small"]
    shown = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    accuracies = {run["folder"]: 100 * run["accuracy"]["autoattack"] for run in content["runs"] if run["accuracy"]}
    assert shown.get("KD student", []) == []
    assert shown["teacher"] == [accuracies[RUNS[0]]]
    assert shown["student without a teacher"] == [accuracies[RUNS[1]]]


def test_what_time_leaves_open_is_shown_as_open(copied, data):
    """A worker of its own is ended at once; what is kept is not lost, and the same command goes on."""
    load, whole = copied
    Path(f"results/tiny/{RUNS[4].replace('/', '--')}.json").unlink()
    content, ended = go(load(), data, minutes=0.0)
    assert ended == []
    assert (content["done"], content["total"]) == (4, 5)
    assert [run["status"] for run in content["runs"]] == ["done"] * 4 + ["open"]
    assert "- 1 run has no result yet. tangent: robust-to-small (seed 0)." in Path("out/claims.md").read_text()
    assert content["claims"]["b"]["rows"][0] == whole["claims"]["b"]["rows"][0]
    assert content["claims"]["b"]["rows"][1]["verdict"] == "undecided"
    content, ended = go(load(), data)
    assert ended == [RUNS[4]]
    assert content["claims"] == whole["claims"]


def test_a_teacher_that_is_not_robust_is_refused(claims, data, quick):
    weak = (("method: {name: pgd-at, steps: 2}", "method: ce"), ("eps: 0.05", "eps: 0.5"))
    told = r"teacher robust is not robust: 0.0 % of 8 test images \(95 % interval 0.0 % to 36.9 %\) withstand "
    with pytest.raises(
        InputError, match=told + r"AutoAttack at linf eps 0.5, and chance is 10 %; .* --despite-findings"
    ):
        go(claims(*weak), data)
    assert sorted(path.name for path in Path("out").iterdir() if path.is_dir()) == [".locks", "teachers"]
    with pytest.raises(InputError, match="is not robust"):
        go(claims(*weak), data)  # which says so again, and trains nothing from it
    content, ended = go(claims(*weak, despite_findings=True), data)
    assert ended == RUNS[1:]
    assert content["claims"]["a"]["rows"][0]["teacher_robust"] == 0.0
    assert content["done"] == 5


def test_a_teacher_that_failed_is_told(claims, data, quick, monkeypatch):
    def fails(*arguments, **keywords):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_one, "run_recipe", fails)
    with pytest.raises(InputError, match="teacher robust failed: OSError: the disk is full"):
        go(claims(), data)


def test_a_run_that_diverged_is_shown_as_that_and_counts_as_wrong(copied, data):
    load, whole = copied
    Path(f"results/tiny/{RUNS[3].replace('/', '--')}.json").unlink()
    wild = ("  kdiga: kdiga", "  kdiga: {method: {name: kdiga, gradient_weight: 1e9}, training: {lr: 1e6}}")
    content, ended = go(load(wild), data)
    assert ended == [RUNS[3]]
    run = content["runs"][3]
    assert (run["status"], run["accuracy"]) == ("diverged", None)
    assert "training" in run["error"]
    row = content["claims"]["b"]["rows"][0]
    assert (row["method"], row["diverged"], row["robust"], row["clean"]) == ("kdiga", 1, 0.0, 0.0)
    assert row["verdict"] == content["claims"]["b"]["verdict"] == "contradicted"
    assert content["claims"]["b"]["rows"][1:] == whole["claims"]["b"]["rows"][1:]
    assert [row["verdict"] for row in content["claims"]["d"]["rows"][:2]] == ["contradicted"] * 2
    page = Path("out/claims.md").read_text()
    assert "contradicted, 1 diverged |" in page
    assert f"- 1 runs diverged and count as wrong on every image: {RUNS[3]}." in page
    assert content["done"] == 5


PRETRAINED = """\
pretrained:
  students: {old: old.safetensors}
  training: {epochs: 1}
  methods: {kdiga: {name: kdiga, label_weight: 1, teacher_weight: 0}}
  at_most: AT_MOST
judged:"""


def with_pretrained(load, at_most, **options):
    return load(
        ("judged:", PRETRAINED.replace("AT_MOST", at_most)),
        ("  tangent: tangent\n", ""),
        ("[kdiga, tangent]", "[kdiga]"),
        ("evaluate:", "tune: {trials: 2, epochs: 1}\nevaluate:"),
        ("steps: 2}}", "steps: 2}, training: {epochs: 4}}"),
        **options,
    )


def test_a_pretrained_student_keeps_what_it_may_not_lose(copied, quick_project, data):
    """Its coefficients are those of the most robust trial among those above the floor, here all."""
    load, _ = copied
    # ce's weights are a student that classifies.
    shutil.copy(quick_project[0] / "out/ce/small/seed-0/best.safetensors", "old.safetensors")
    content, _ = go(with_pretrained(load, "100", records=Path("old")), data)
    assert content["done"] == content["total"]
    start = json.loads(Path("out/starts/old/best-validation.json").read_text())["accuracy"]["clean"]
    found = {entry["search"]: entry for entry in content["coefficients"]}
    assert list(found) == ["tuning/kd", "tuning/kdiga", "tuning/kd-old", "tuning/kdiga-old"]
    assert found["tuning/kdiga"]["least_clean"] is None
    assert found["tuning/kdiga-old"]["least_clean"] == pytest.approx(start - 1)
    robust = [trial["best"]["robust"] for trial in found["tuning/kdiga-old"]["trials"]]
    assert found["tuning/kdiga-old"]["chosen"] == f"tuning/kdiga-old/trial-{robust.index(max(robust)):02d}"
    (row,) = [row for row in content["claims"]["c"]["rows"] if row["method"] == "kdiga"]
    assert (
        row["start_clean"] == next(run for run in content["runs"] if run["folder"] == "starts/old")["accuracy"]["clean"]
    )
    assert row["kept"][0] == pytest.approx(row["clean"] - row["start_clean"])
    pictures(content, Path("out"), [*"abcde", "epochs"])
    # With the start gone, nothing can be chosen by it, and it comes first again.
    shutil.rmtree("out/starts")
    Path("old/starts--old.json").unlink()
    with pytest.raises(InputError, match=r"kd/robust-to-old/seed-0 in 'out' was run before starts/old"):
        go(with_pretrained(load, "100", records=Path("old")), data)
    shutil.rmtree("out")
    for path in Path("old").glob("*old--seed-0.json"):
        path.unlink()
    again, ended = go(with_pretrained(load, "100", records=Path("old")), data)
    assert ended == ["starts/old", "kd/robust-to-old/seed-0", "kdiga/robust-to-old/seed-0"]
    assert again["claims"] == content["claims"]


def test_a_start_that_failed_is_no_traceback(copied, quick_project, data, monkeypatch):
    load, _ = copied
    shutil.copy(quick_project[0] / "out/ce/small/seed-0/best.safetensors", "old.safetensors")

    def fails(*arguments, **keywords):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_one, "validate_run", fails)
    content, _ = go(with_pretrained(load, "1", records=Path("old")), data)
    states = {run["folder"]: (run["status"], run["error"]) for run in content["runs"]}
    assert states["starts/old"] == ("failed", "OSError: the disk is full")
    assert states["kdiga/robust-to-old/seed-0"] == ("failed", "starts/old failed")
    assert states["kdiga/robust-to-small/seed-0"][0] == "done"
    assert "chosen" in content["coefficients"][0]
    assert next(entry for entry in content["coefficients"] if entry["search"] == "tuning/kdiga-old")["chosen"] is None
