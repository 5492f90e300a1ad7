"""Records of finished runs: what goes in comes out, what they lack is done, and nothing else is taken for them."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from kdiga.errors import InputError
from kdiga.experiments import run_one
from kdiga.experiments.claims.run_records import validation_history
from kdiga.models import load_model
from tests.experiments.claims.conftest import go, loader, pgd_for_autoattack

FEW = (("  tangent: tangent\n", ""), ("[kdiga, tangent]", "[kdiga]"))
RUNS = ["teachers/robust", "ce/small/seed-0", "kd/robust-to-small/seed-0", "kdiga/robust-to-small/seed-0"]


@pytest.fixture(scope="module")
def project(tmp_path_factory, data):
    """A folder with a recipe, its finished runs and their records."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, pgd_for_autoattack():
        patch.chdir(folder)
        _, ended = go(loader(folder)(*FEW), data)
    assert ended == RUNS
    return folder


@pytest.fixture
def finished(project, claims, tmp_path, quick):
    """A copy of it, to be changed; and what loads its recipe with some of it replaced."""
    for name in ("out", "results/tiny"):
        shutil.copytree(project / name, tmp_path / name)
    return lambda *replaced, **options: claims(*FEW, *replaced, **options)


def contents(folder):
    """The files of runs that records keep, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in ("result.json", "best-test.json", "certificate.json", "explanation.json", "failure.json")
    }


def record_of(folder):
    return Path("results/tiny", folder.replace("/", "--") + ".json")


def test_a_record_a_run_and_a_teachers_weights(finished):
    names = sorted(path.name for path in Path("results/tiny").iterdir())
    assert names == sorted([*(record_of(folder).name for folder in RUNS), "teachers--robust.safetensors"])
    record = json.loads(record_of(RUNS[-1]).read_text())
    assert sorted(record) == ["best-test.json", "certificate.json", "config.yaml", "explanation.json", "result.json"]
    row = record["best-test.json"]["correct"]["clean"]
    assert re.fullmatch("[01]{40}", row)
    there = json.loads(Path("out", RUNS[-1], "best-test.json").read_text())["correct"]["clean"]
    assert [letter == "1" for letter in row] == there


def test_a_finished_run_comes_back_bit_for_bit(finished, data):
    before = contents(Path("out"))
    assert len(before) == 4 + 4 + 2 * 2
    configs = {folder: yaml.safe_load(Path("out", folder, "config.yaml").read_text()) for folder in RUNS}
    weights = Path("out/teachers/robust/best.safetensors").read_bytes()
    records = {path: path.stat().st_mtime_ns for path in Path("results/tiny").iterdir()}
    histories = {folder: validation_history(Path("out", folder)) for folder in RUNS}
    shutil.rmtree("out")
    checked = finished()
    board, kept = checked.open(data), checked.records
    restored = contents(Path("out"))
    for name in [name for name in before if name.endswith("result.json")]:
        result = json.loads(restored.pop(name))
        history = result.pop("history")
        assert result == json.loads(before.pop(name))
        assert history == histories[str(Path(name).parent)] != []
    assert restored == before
    assert {folder: yaml.safe_load(Path("out", folder, "config.yaml").read_text()) for folder in RUNS} == configs
    assert Path("out/teachers/robust/best.safetensors").read_bytes() == weights
    assert not list(Path("out").glob("k*/*/*/*.safetensors")), "a student's weights are not needed any more"
    assert board.folders("done") == RUNS
    assert kept.restore(board) == 0, "what is there already stays as it is"
    _, ended = go(checked, data)
    assert ended == []
    assert {path: path.stat().st_mtime_ns for path in Path("results/tiny").iterdir()} == records


def test_what_is_there_is_not_overwritten(finished, data):
    path = Path("out", RUNS[1], "best-test.json")
    report = json.loads(path.read_text())
    report["notes"] = "of this folder"
    path.write_text(json.dumps(report))
    board = finished().open(data)
    assert board.folders("done") == RUNS
    assert json.loads(path.read_text())["notes"] == "of this folder"


def test_another_folder_for_the_runs(finished, data):
    """Whose teachers are called otherwise in the recipes of their students."""
    checked = finished(out="elsewhere")
    board = checked.open(data)
    assert board.folders("done") == RUNS
    assert load_model("elsewhere/teachers/robust").spec.name == "cnn-8"


def test_looking_writes_nothing(finished, data):
    shutil.rmtree("out")
    checked = finished()
    board = checked.open(data, look_only=True)
    assert not Path("out").exists()
    assert all(checked.records.holds(run_spec) for run_spec in board.run_specs)


def test_a_record_that_lacks_what_is_asked_now_is_not_used(finished, data):
    shutil.rmtree("out")
    checked = finished(("samples: 20", "samples: 30"))
    board, kept = checked.open(data), checked.records
    assert board.folders("open") == RUNS[2:], "their radii rest on other settings"
    content, ended = go(checked, data)
    assert ended == RUNS[2:]
    assert json.loads(Path("out", RUNS[2], "certificate.json").read_text())["settings"]["samples"] == 30
    record = json.loads(record_of(RUNS[2]).read_text())
    assert record["certificate.json"]["settings"]["samples"] == 30, "the newer is kept in its place"
    assert all(kept.holds(run_spec) for run_spec in board.run_specs)
    assert content["certify"]["samples"] == 30


def test_radii_of_other_settings_in_the_folder_are_not_taken_for_these(finished, data):
    with pytest.raises(InputError, match=r"kd/.*certificate.json' has other settings: samples is 20 there and 30 here"):
        finished(("samples: 20", "samples: 30")).open(data)
    with pytest.raises(InputError, match=r"explanation.json.* steps is 2 there and 3 here"):
        finished(("steps: 2, restarts", "steps: 3, restarts")).open(data)


def test_another_recipes_records_are_refused(finished, data):
    shutil.rmtree("out")
    with pytest.raises(InputError, match=r"training.lr is 0.01 there and 0.02 here.*records in 'results/tiny' may be"):
        finished(("lr: 1e-2", "lr: 2e-2")).open(data)
    shutil.rmtree("out")
    with pytest.raises(InputError, match=r"best-test.json' has other .*: images of clean is 40 there and 30 here"):
        finished((" examples: 40", " examples: 30")).open(data)


@pytest.mark.parametrize("text", ["{", "[]", '{"result.json": 3}', ""])
def test_a_damaged_record_is_named_and_refused(text, finished, data):
    shutil.rmtree("out")
    record_of(RUNS[1]).write_text(text)
    with pytest.raises(InputError, match=r"'results/tiny/ce--small--seed-0.json' is not a record of .*delete it"):
        finished().open(data)
    record_of(RUNS[1]).unlink()
    board = finished().open(data)
    assert board.folders("open") == [RUNS[1]]


def test_an_open_student_learns_from_a_restored_teacher(finished, data):
    before = contents(Path("out"))
    shutil.rmtree("out")
    record_of(RUNS[3]).unlink()
    content, ended = go(finished(), data)
    assert ended == [RUNS[3]]
    assert content["done"] == 4
    after = contents(Path("out"))
    same = "kdiga/robust-to-small/seed-0/"
    for name in ("certificate.json", "explanation.json"):
        assert after[same + name] == before[same + name], "the teacher is the same to the last bit"
    correct = (json.loads(one[same + "best-test.json"])["correct"] for one in (before, after))
    assert len({json.dumps(one) for one in correct}) == 1


def test_a_teacher_without_its_weights_is_trained_again(finished, data):
    shutil.rmtree("out")
    Path("results/tiny/teachers--robust.safetensors").unlink()
    checked = finished(("seeds: [0]", "seeds: [1]"))
    board, kept = checked.open(data), checked.records
    assert board.folders("done") == []
    assert not kept.holds(board.run_specs[0])


def test_an_open_student_learns_from_a_teacher_that_was_given(finished, data):
    """Its weights are not kept, for they are the recipe's own; they are put into its folder again."""
    shutil.copy("out/teachers/robust/best.safetensors", "public.safetensors")
    shutil.rmtree("out")
    given = (("robust: {student: cnn-8, method: {name: pgd-at, steps: 2}}", "robust: public.safetensors"),)
    _, ended = go(finished(*given, records=Path("given")), data)
    assert ended == RUNS
    assert not list(Path("given").glob("*.safetensors"))
    before = contents(Path("out"))
    shutil.rmtree("out")
    Path("given/kd--robust-to-small--seed-0.json").unlink()
    content, ended = go(finished(*given, records=Path("given")), data)
    assert ended == [RUNS[2]]
    assert [run["status"] for run in content["runs"]] == ["done"] * 4
    same = f"{RUNS[2]}/explanation.json"
    assert contents(Path("out"))[same] == before[same]


def test_a_run_that_diverged_is_kept_as_that(finished, data):
    wild = (("  kdiga: kdiga", "  kdiga: {method: {name: kdiga, gradient_weight: 1e9}, training: {lr: 1e6}}"),)
    shutil.rmtree(Path("out/kdiga"))
    record_of(RUNS[3]).unlink()
    content, ended = go(finished(*wild), data)
    assert ended == [RUNS[3]]
    assert content["runs"][3]["status"] == "diverged"
    record = json.loads(record_of(RUNS[3]).read_text())
    assert record["failure.json"]["status"] == "diverged"
    assert "trace" not in record["failure.json"]
    shutil.rmtree("out")
    board = finished(*wild).open(data)
    assert board.folders("diverged") == [RUNS[3]]
    again, ended = go(finished(*wild), data)
    assert ended == []
    assert again["claims"] == content["claims"]


def test_a_run_that_failed_is_not_kept(finished, data, monkeypatch):
    def fails(*arguments, **keywords):
        raise OSError("the disk is full")

    shutil.rmtree(Path("out/kdiga"))
    record_of(RUNS[3]).unlink()
    monkeypatch.setattr(run_one, "run_recipe", fails)
    content, _ = go(finished(), data)
    assert content["runs"][3]["status"] == "failed"
    assert not record_of(RUNS[3]).exists()


def test_records_name_no_place_on_this_machine(finished, data, tmp_path):
    """Whatever folder they were made in: they are meant to be passed on."""
    shutil.rmtree("out")
    shutil.rmtree("results/tiny")
    checked = finished(out=str(tmp_path / "far/away"))
    go(checked, data)
    for path in Path("results/tiny").glob("*.json"):
        text = path.read_text()
        assert str(tmp_path) not in text, path
        assert not re.search(r'"/[a-z]', text), path
        assert "Traceback" not in text
    before = contents(tmp_path / "far/away")
    shutil.rmtree(tmp_path / "far")
    board = checked.open(data)
    assert board.folders("done") == RUNS
    restored = contents(tmp_path / "far/away")
    for name in [name for name in before if name.endswith("result.json")]:
        result = json.loads(restored.pop(name))
        result.pop("history")
        assert result == json.loads(before.pop(name))
    assert restored == before, "here it is called as it was"
    there = yaml.safe_load((tmp_path / "far/away" / RUNS[2] / "config.yaml").read_text())
    assert there["teacher"]["name"] == str(tmp_path / "far/away/teachers/robust")


def test_records_are_written_as_runs_end(finished, data):
    shutil.rmtree("out")
    shutil.rmtree("results/tiny")
    seen = []

    def look(watch):
        if watch.ended:
            seen.append((watch.ended, sorted(path.stem for path in Path("results/tiny").glob("*.json"))))
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(finished(), data, on_progress=look)
    assert seen == [
        (RUNS[0], ["teachers--robust"]),
        (RUNS[1], ["ce--small--seed-0", "teachers--robust"]),
    ]
    started = time.time()
    board = finished().open(data, since=started)
    assert board.folders("open") == RUNS[2:]
