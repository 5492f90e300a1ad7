"""Cells: run once, continued where they stopped, and what goes wrong in one is not the others' trouble."""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdiga.errors import InputError
from kdiga.evaluation import evaluate
from kdiga.evaluation.masking.finding import Finding
from kdiga.experiments import run_one
from kdiga.experiments.executors import HERE
from kdiga.experiments.runner import run_board
from kdiga.io.atomic_write import WriteError
from kdiga.models import load_model
from kdiga.runs.run_folder import Journal
from kdiga.workflows.prepare import load_recipe_data, prepare
from kdiga.workflows.train import run_recipe


@pytest.fixture(scope="module")
def data():
    from kdiga.recipes.schema import DataConfig

    return load_recipe_data(DataConfig("digits", train_examples=400))


def go(study, data, *, since=None):
    """Run a study in this process; return ``study.json`` and the folders of the cells that ran."""
    watched = []
    board = study.open(data, since=time.time() if since is None else since)
    content = study.run(board, data, on_progress=watched.append)
    return content, [watch.ended for watch in watched if watch.ended]


def runs(content):
    return {run["folder"]: run for role in ("teachers", "methods") for entry in content[role] for run in entry["runs"]}


def without_time(content):
    kept = ("status", "accuracy", "validation", "best_epoch", "passes", "error")
    return {folder: {key: run[key] for key in kept} for folder, run in runs(content).items()}


def test_a_study_from_start_to_end(study, data):
    checked = study()
    content, ended = go(checked, data)
    assert ended == [run_spec.folder for run_spec in checked.run_specs]
    assert (content["done"], content["total"]) == (5, 5)
    saved = json.loads(Path("out/study.json").read_text())
    assert saved == content
    run = runs(content)["kd/seed-1"]
    report = json.loads(Path("out/kd/seed-1/last-test.json").read_text())
    assert run["accuracy"]["last"] == report["accuracy"]
    assert run["passes"]["student_forwards"] > 0
    assert run["passes"]["teacher_forwards"] > 0
    assert (run["seed"], run["status"], len(report["correct"]["pgd-2"])) == (1, "done", 40)
    for name in ("cells.csv", "table.md", "scatter.png", "scatter.svg"):
        assert Path("out", name).stat().st_size > 100, name
    # The same numbers as `kdiga evaluate` on the run's folder would give, and what it would write.
    model = load_model("out/kd/seed-1", which="last")
    again = evaluate(model, data.test.batches(), eps=0.1, attacks=["clean", "pgd-2"], examples=40)
    assert again.to_dict()["correct"] == report["correct"]
    asked = {
        "kind",
        "model",
        "which",
        "architecture",
        "parameters",
        "fingerprint",
        "data",
        "version",
        "data_fingerprint",
    }
    assert set(report) == asked | set(again.to_dict()) - {"command"}

    files = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if "seed-" in str(path)}
    content, ended = go(checked, data)
    assert ended == []
    assert files == {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if "seed-" in str(path)}


def test_an_interrupted_study_ends_with_the_same_numbers(study, data, monkeypatch):
    """Stopped in an epoch and in an attack, it repeats just those two."""
    done = {"epochs": 0, "attacks": 0}
    write, attack = Journal.write, run_one.measure
    stop_at: dict[str, int] = {}

    def count(kind):
        if done[kind] == stop_at.get(kind):
            raise KeyboardInterrupt
        done[kind] += 1

    def counted_write(self, event):
        count("epochs")
        write(self, event)

    def counted_attack(*arguments, **keywords):
        report = attack(*arguments, **keywords)
        count("attacks")
        return report

    monkeypatch.setattr(Journal, "write", counted_write)
    monkeypatch.setattr(run_one, "measure", counted_attack)
    whole, _ = go(study(out="whole"), data)
    needed, done = done, {"epochs": 0, "attacks": 0}
    assert needed["epochs"] == 3 * 5
    assert needed["attacks"] > 5, "some best and last epochs differ"

    stopped = study()
    stop_at |= {"epochs": 7}  # in the second epoch of the third cell
    with pytest.raises(KeyboardInterrupt):
        go(stopped, data)
    assert Path("out/kd/seed-0/state.pt").is_file()
    stop_at.clear()
    stop_at |= {"attacks": needed["attacks"] - 1}
    with pytest.raises(KeyboardInterrupt):
        go(stopped, data)
    stop_at.clear()
    content, ended = go(stopped, data)
    assert ended
    assert len(ended) < 5
    assert done == needed, "nothing that was finished was done again"
    assert without_time(content) == without_time(whole)
    for folder in ("kd/seed-0", "kd/seed-1", "teachers/robust"):
        one, two = (load_file(Path(out, folder, "last.safetensors")) for out in ("whole", "out"))
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_full_disk_ends_the_study_and_fails_no_cell(study, data, monkeypatch):
    def refuse(*_arguments, **_more):
        raise WriteError("out/state.pt", errno.ENOSPC)

    monkeypatch.setattr(run_one, "run_recipe", refuse)
    with pytest.raises(WriteError):
        go(study(), data)
    assert not list(Path("out").rglob("failure.json"))


def test_what_diverges_is_a_result_and_what_fails_is_tried_again(study, data, monkeypatch):
    wild = "  wild: {method: {name: kd, teacher_weight: 1e9}, training: {lr: 10}}\n"
    checked = study(("  kd: {", f"{wild}  kd: {{"), ("[0, 1]", "[0]"))
    train = run_one.run_recipe

    def fails(recipe, folder, **keywords):
        if folder == Path("out/ce/seed-0"):
            raise OSError("the disk is full")
        return train(recipe, folder, **keywords)

    monkeypatch.setattr(run_one, "run_recipe", fails)
    content, ended = go(checked, data)
    assert len(ended) == 4
    found = runs(content)
    assert (found["wild/seed-0"]["status"], found["kd/seed-0"]["status"]) == ("diverged", "done")
    assert "training" in found["wild/seed-0"]["error"]
    assert (found["ce/seed-0"]["status"], found["ce/seed-0"]["error"]) == ("failed", "OSError: the disk is full")
    assert "Traceback" in json.loads(Path("out/ce/seed-0/failure.json").read_text())["trace"]
    assert "| wild | 0/1, 1 diverged | - |" in Path("out/table.md").read_text()
    monkeypatch.setattr(run_one, "run_recipe", train)
    content, ended = go(checked, data)
    assert ended == ["ce/seed-0"]
    assert not Path("out/ce/seed-0/failure.json").exists()
    assert [run["status"] for run in runs(content).values()] == ["done", "done", "diverged", "done"]


def test_students_of_a_teacher_that_diverged_fail_and_say_so(study, data):
    checked = study(("method: ce}", "method: ce, training: {lr: 1e9}}"), ("[0, 1]", "[0]"))
    content, ended = go(checked, data)
    assert ended == ["teachers/robust", "ce/seed-0"]
    found = runs(content)["kd/seed-0"]
    assert (found["status"], found["error"]) == ("failed", "teachers/robust diverged")


def test_best_and_last_of_one_epoch_are_attacked_once(study, data, monkeypatch):
    attacked, attack = [], run_one.measure
    monkeypatch.setattr(run_one, "measure", lambda *a, **k: (attacked.append(k["attacks"]), attack(*a, **k))[1])
    checked = study(("epochs: 3", "epochs: 1"), ("[0, 1]", "[0]"), ("lr: 1e-2", "lr: 3e-2"))
    go(checked, data)
    assert attacked == [["clean", "pgd-2"]] * 3
    best, last = (json.loads(Path(f"out/ce/seed-0/{which}-test.json").read_text()) for which in ("best", "last"))
    assert (best.pop("which"), last.pop("which")) == ("best", "last")
    assert best == last
    for which in ("best", "last"):
        path = Path(f"out/ce/seed-0/{which}-test.json")
        path.write_text(json.dumps(best | {"which": which, "seconds": {"clean": 60.0, "pgd-2": 540.0}}))
    content, _ = go(checked, data)
    assert content["methods"][0]["runs"][0]["attack_minutes"] == 10.0


def test_autoattack_may_look_at_fewer_images(study, data, monkeypatch):
    seen, attack = [], run_one.measure

    def without_autoattack(*arguments, **keywords):  # which takes seconds; FGSM stands in for it
        seen.append((keywords["attacks"], keywords["examples"]))
        swapped = ["fgsm" if name == "autoattack" else name for name in keywords["attacks"]]
        report = attack(*arguments, **{**keywords, "attacks": swapped})
        object.__setattr__(
            report,
            "results",
            {"autoattack" if name == "fgsm" else name: result for name, result in report.results.items()},
        )
        if swapped == ["fgsm"]:
            object.__setattr__(report, "findings", [Finding("finite", "failed", "planted", {})])
        return report

    monkeypatch.setattr(run_one, "measure", without_autoattack)
    evaluation = ("[clean, pgd-2], examples: 40", "[autoattack, pgd-2, clean], autoattack_examples: 9, which: [best]")
    content, _ = go(study(evaluation, ("[0, 1]", "[0]"), ("  kd: {name: kd, temperature: 4}\n", "")), data)
    assert seen == [(["pgd-2", "clean"], 360), (["autoattack"], 9)] * 2
    report = json.loads(Path("out/ce/seed-0/best-test.json").read_text())
    assert {name: len(right) for name, right in report["correct"].items()} == {
        "clean": 360,
        "pgd-2": 360,
        "autoattack": 9,
    }
    assert [one["message"] for one in report["findings"] if one["name"] == "finite"] == ["planted"]
    low, high = report["interval_95"]["autoattack"]
    assert high - low > 0.2, "the interval is that of nine images"
    assert (report["examples"], content["attacks"]["autoattack"]) == (360, 9)
    assert not Path("out/ce/seed-0/last-test.json").exists()


def test_a_folder_of_another_study_is_refused_before_anything_runs(study, data):
    small = ("[0, 1]", "[0]")
    go(study(small), data)

    def refused(message, *replaced):
        with pytest.raises(InputError, match=message):
            go(study(small, *replaced), data)

    refused(
        r"kd/seed-0 .*method.temperature is 4.0 there and 2.0 here; give another --out, or delete 'out/kd/seed-0'",
        ("temperature: 4", "temperature: 2"),
    )
    refused(r"teachers/robust .*training.epochs is 3 there and 4 here", ("epochs: 3", "epochs: 4"))
    refused(
        r"best-test.json' has .*images of clean is 40 there and 50 here",
        (" examples: 40}", " examples: 50}"),
    )
    refused(r"best-test.json' has .*images of pgd-3 is missing there and 40 here", ("pgd-2", "pgd-2, pgd-3"))
    refused(r"kd/seed-0 .* was run before tuning/kd/trial-00", ("seeds:", "tune: {trials: 1}\nseeds:"))
    shutil.move("out", "moved")
    _, ended = go(study(small, ("  kd: {", "  more: pgd-at\n  kd: {"), out="moved"), data)
    assert ended == ["more/seed-0"], "a folder may move, and a study may grow"
    shutil.rmtree("moved/teachers/robust")
    with pytest.raises(InputError, match=r"kd/seed-0 .* was run before teachers/robust"):
        go(study(small, out="moved"), data)


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_folder_that_cannot_be_is_told_by_its_name(study, data, out):
    Path("taken").write_text("mine")
    with pytest.raises(InputError, match=f"^output folder '{out}' cannot be used .Not a directory.; choose another"):
        study(out=out).open(data)
    assert Path("taken").read_text() == "mine"


def test_models_are_built_before_anything_runs(study, data):
    for replaced, message in (
        (("student: cnn-8", "student: cnn-eight"), r"teachers/robust: .*'cnn-eight'"),
        (("teacher: robust", "teacher: runs/none"), r"kd/seed-0: .*does not exist"),
        (("  student: cnn-4", "  student: {name: cnn-4, weights: none.pt, normalization: none}"), "none.pt"),
    ):
        with pytest.raises(InputError, match=message):
            go(study(replaced), data)
    assert not Path("out").exists()


def test_a_cell_costs_little_more_than_its_training_and_attacks(study, data):
    """Far less than two seconds, tables included; here the mean of ten cells is below half of one."""
    seeds = ("[0, 1]", str(list(range(9))))
    checked = study(
        seeds, ("epochs: 3", "epochs: 1"), ("lr: 1e-2", "lr: 3e-2"), ("  kd: {name: kd, temperature: 4}\n", "")
    )
    board = checked.open(data)
    started = time.perf_counter()
    run_board(
        board,
        data,
        checked.evaluation,
        request=HERE,
        on_progress=lambda watch: None,
        on_end=lambda: checked.report(board, data, pictures=False),
    )
    study_seconds = time.perf_counter() - started
    started = time.perf_counter()
    for run_spec in checked.run_specs:
        folder = Path("plain", run_spec.folder)
        run_recipe(prepare(run_spec.recipe, data), folder)
        evaluate(load_model(folder), data.test.batches(), eps=0.1, attacks=["clean", "pgd-2"], examples=40)
    plain_seconds = time.perf_counter() - started
    assert (study_seconds - plain_seconds) / len(checked.run_specs) < 0.5
