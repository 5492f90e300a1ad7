"""The command line from end to end, as a user meets it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

import kdiga
from kdiga.cli import main
from kdiga.io.file_lock import FOLDER as LOCKS
from kdiga.runs.run_folder import OURS

# No network, and no data but the packages' own.
NOWHERE = {
    "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "KDIGA_DATA": "",
    "XDG_CACHE_HOME": "{cwd}/cache",
}
QUICK = ["--set", "training.epochs=4", "--set", "training.validation_steps=2", "--set", "training.seed=3"]
RECIPES = Path(__file__).parents[2] / "recipes"


def run(*arguments: str, cwd: Path, expect: int = 0) -> str:
    """Run the command in this process; return stdout, or stderr where it is expected to fail."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["kdiga", *arguments])
        patch.setenv("COLUMNS", "160")
        for name, value in NOWHERE.items():
            patch.setenv(name, value.format(cwd=cwd))
        with pytest.raises(SystemExit) as stopped:
            main()
    assert (stopped.value.code or 0) == expect, output.getvalue() + errors.getvalue()
    return errors.getvalue() if expect else output.getvalue()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a trained teacher and a student distilled from it."""
    folder = tmp_path_factory.mktemp("project")
    run("train", str(RECIPES / "digits-teacher.yaml"), *QUICK, cwd=folder)
    run("train", str(RECIPES / "digits-tangent.yaml"), *QUICK, cwd=folder)
    return folder


def test_a_run_leaves_what_it_should(project):
    for name in ("digits-teacher", "digits-tangent"):
        found = sorted(path.name for path in (project / "runs" / name).iterdir() if path.name != LOCKS)
        assert found == [
            "best.safetensors",
            "config.yaml",
            "identity.json",
            "journal.jsonl",
            "last.safetensors",
            "result.json",
            "trained-images.npz",
        ]
        assert set(found) <= set(OURS)
    result = json.loads((project / "runs/digits-tangent/result.json").read_text())
    assert result["seed"] == 3
    assert result["provenance"]["versions"]["torch"]
    assert result["provenance"]["hardware"]["processor"]
    assert result["validation"]["best"]["clean"] > 0.5
    assert result["parameters"]["teacher"] > 8 * result["parameters"]["student"]
    lines = [json.loads(line) for line in (project / "runs/digits-tangent/journal.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert set(lines[0]["terms"]) == {"label", "teacher", "gap"}
    model = kdiga.load_model(project / "runs/digits-tangent")
    assert model.spec.activation == "silu"
    assert kdiga.load_model(project / "runs/digits-tangent", which="last").spec == model.spec


def test_the_saved_config_makes_the_same_run(project, tmp_path):
    config = project / "runs/digits-tangent/config.yaml"
    run("train", str(config), "--out", str(tmp_path / "again"), cwd=project)
    one, two = (kdiga.load_model(path).state_dict() for path in (project / "runs/digits-tangent", tmp_path / "again"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_evaluate_a_run(project):
    output = run(
        "evaluate",
        "runs/digits-tangent",
        "--attacks",
        "clean,fgsm,pgd-5",
        "--examples",
        "50",
        "--json",
        "out/r.json",
        cwd=project,
    )
    assert "50 test images of digits" in output
    assert "pgd-5" in output
    saved = json.loads((project / "out/r.json").read_text())
    assert saved["threat"] == {"norm": "linf", "eps": 0.1}
    assert saved["accuracy"]["pgd-5"] <= saved["accuracy"]["clean"]
    assert len(saved["correct"]["clean"]) == 50


def test_evaluate_with_everything_given(project, short_autoattack):
    output = run(
        "evaluate",
        "runs/digits-teacher/last.safetensors",
        "--data",
        "digits",
        "--eps",
        "1/2",
        "--norm",
        "L2",
        "--attacks",
        "clean,pgd-3,autoattack",
        "--examples",
        "6",
        cwd=project,
    )
    assert "l2 eps 0.5" in output
    assert "autoattack" in output


def test_evaluate_foreign_weights(project):
    model = kdiga.load_model(project / "runs/digits-tangent")
    torch.save({"state_dict": model.network.state_dict()}, project / "foreign.pt")
    about = ["evaluate", "cnn-8", "--weights", "foreign.pt", "--data", "digits", "--attacks", "clean"]
    assert "360 test images" in run(*about, "--normalization", "none", cwd=project)
    assert "normalised" in run(*about, cwd=project, expect=2)


def test_an_output_folder_is_not_overwritten_by_accident(project):
    again = ["train", str(RECIPES / "digits-tangent.yaml"), *QUICK]
    assert "continue it with --resume, replace it with --overwrite" in run(*again, cwd=project, expect=2)
    before = (project / "runs/digits-tangent/result.json").read_bytes()
    run(*again, "--resume", cwd=project)  # finished: nothing to do, nothing changed
    assert (project / "runs/digits-tangent/result.json").read_bytes() == before
    (project / "runs/digits-tangent/mine.txt").write_text("keep")
    run(*again, "--overwrite", cwd=project)
    assert (project / "runs/digits-tangent/mine.txt").read_text() == "keep"


def test_dry_run_writes_nothing(project):
    output = run("train", str(RECIPES / "digits-kdiga.yaml"), "--dry-run", cwd=project)
    assert "gradient_weight: 2.0" in output
    assert "architecture: cnn-8-silu, 7,178 parameters" in output
    assert not (project / "runs/digits-kdiga").exists()


def test_lists(project):
    methods = run("methods", cwd=project)
    assert all(name in methods for name in kdiga.available_methods())
    models = run("models", cwd=project)
    assert "11,173,962" in models
    assert all(name in models for name in kdiga.available_models())
    assert "fashion-mnist" in run("data", cwd=project)


def test_models_of_a_size_that_one_does_not_take(project):
    told = run("models", "--image-size", "8", "--in-channels", "1", "--json", "models.json", cwd=project)
    assert "not for this size" in told
    counted = json.loads((project / "models.json").read_text())["parameters"]
    assert counted["vit-bn-p16"] is None
    assert counted["cnn-8"] == 7178
    assert "num_classes was 0" in run("models", "--num-classes", "0", cwd=project, expect=2)


def test_one_method_in_full(project):
    told = run("methods", "rslad", cwd=project)
    assert "L = robust_weight * KL" in told
    assert "steps=10" in told
    assert "student 12 + 12, teacher 1 + 0" in told
    assert "did you mean rslad" in run("methods", "rsla", cwd=project, expect=2)


def test_a_missing_second_teacher_is_told_before_anything_runs(project):
    output = run(
        "train",
        str(RECIPES / "digits-kdiga.yaml"),
        "--set",
        "method={name: mtard}",
        "--out",
        "two",
        cwd=project,
        expect=2,
    )
    assert "second_teacher: missing section; method mtard learns from two" in output
    assert not (project / "two").exists()


def test_two_teachers_one_trained_along_and_rounds(project):
    teacher = ["--set", "teacher=runs/digits-teacher"]
    mtard = ["--set", "method={name: mtard, steps: 2}", "--set", "second_teacher=runs/digits-tangent"]
    run("train", str(RECIPES / "digits-kdiga.yaml"), *QUICK, *teacher, *mtard, "--out", "mtard", cwd=project)
    lbgat = ["--set", "method={name: lbgat, steps: 2}", "--set", "teacher=cnn-4"]
    run("train", str(RECIPES / "digits-kdiga.yaml"), *QUICK, *lbgat, "--out", "lbgat", cwd=project)
    rounds = ["--set", "rounds.count=2", "--set", "training.epochs=2"]
    run("train", str(RECIPES / "digits-tangent.yaml"), *QUICK, *teacher, *rounds, "--out", "rounds", cwd=project)
    assert "test images" in run("evaluate", "rounds", "--attacks", "clean", "--examples", "50", cwd=project)
    assert len(json.loads((project / "rounds/result.json").read_text())["rounds"]) == 2


def test_a_diverged_run_is_no_result(project):
    output = run(
        "train",
        str(RECIPES / "digits-kdiga.yaml"),
        *QUICK,
        "--set",
        "method.gradient_weight=1e4",
        "--set",
        "method.ramp=0",
        "--set",
        "method.distance=l2",
        "--out",
        "diverged",
        cwd=project,
        expect=1,
    )
    assert "'gradient'" in output
    assert not (project / "diverged/result.json").exists()
    with pytest.warns(kdiga.KdigaWarning, match="training collapsed"):
        run("evaluate", "diverged", "--attacks", "clean", cwd=project)


BAD = {
    "unknown key": (["train", "{recipe}", "--set", "training.epoch=2"], "did you mean epochs"),
    "unknown model": (["train", "{recipe}", "--set", "student.name=cnn8"], "did you mean cnn-8"),
    "unknown method": (["train", "{recipe}", "--set", "method.name=kdigga"], "did you mean kdiga"),
    "unknown data": (["train", "{recipe}", "--set", "data=digit"], "did you mean digits"),
    "no recipe": (["train", "none.yaml"], "cannot be read"),
    "no teacher": (["train", "{kdiga}", "--set", "teacher.name=runs/none"], "does not exist"),
    "teacher of other classes": (["train", "{kdiga}", "--set", "teacher.name=seven.safetensors"], "of 7 classes"),
    "linf eps above 1": (["evaluate", "runs/digits-teacher", "--eps", "8"], "Did you mean 8/255"),
    "eps that is no number": (["evaluate", "runs/digits-teacher", "--eps", "big"], "is not a number"),
    "unknown attack": (["evaluate", "runs/digits-teacher", "--attacks", "clean,pgd"], "did you mean pgd-20"),
    "unknown norm": (["evaluate", "runs/digits-teacher", "--norm", "l0"], "norm 'l0'"),
    "not a checkpoint": (["evaluate", "text.safetensors", "--data", "digits"], "not a readable safetensors"),
    "another architecture": (
        ["evaluate", "cnn-32", "--weights", "runs/digits-tangent/best.safetensors", "--data", "digits"],
        "name='cnn-8', not name='cnn-32'",
    ),
    "weights of another architecture": (
        ["evaluate", "cnn-32", "--weights", "foreign.pt", "--data", "digits", "--normalization", "none"],
        "another architecture",
    ),
    "unknown weights": (["evaluate", "cnn-8", "--weights", "none.pt", "--data", "digits"], "does not exist"),
    "no data named": (["evaluate", "seven.safetensors"], "name one with --data"),
    "no such run": (["evaluate", "runs/nothing"], "no data set was given, and 'runs/nothing' does not exist; name one"),
    "no such source": (["evaluate", "timm:a/b"], "no data set was given; name one with --data"),
    "missing data offline": (
        ["evaluate", "seven.safetensors", "--data", "cifar10", "--root", "empty"],
        "could not be downloaded",
    ),
    "no such folder": (["demo", "--out", "/proc/none"], "cannot be used"),
    "unknown option": (["train", "{recipe}", "--overwirte"], "overwirte"),
    "unknown command": (["trian"], "trian"),
    "missing argument": (["train"], "Missing argument"),
    "not a number": (["evaluate", "runs/digits-teacher", "--examples", "ten"], "Invalid value for '--examples'"),
    "both resume and overwrite": (["train", "{recipe}", "--resume", "--overwrite"], "--overwrite removes it"),
    "unknown which": (["evaluate", "runs/digits-teacher", "--which", "first"], "accepted: best, last"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_status_2(case, project):
    seven = kdiga.load_model("cnn-8", num_classes=7, in_channels=1, image_size=8)
    kdiga.save_model(seven, project / "seven.safetensors")
    (project / "text.safetensors").write_text("hello")
    torch.save(seven.network.state_dict(), project / "foreign.pt")
    (project / "empty").mkdir(exist_ok=True)
    arguments, message = BAD[case]
    places = {"{recipe}": str(RECIPES / "digits-teacher.yaml"), "{kdiga}": str(RECIPES / "digits-kdiga.yaml")}
    output = run(*[places.get(argument, argument) for argument in arguments], cwd=project, expect=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1, output


def test_interrupted_training_continues(project):
    """Ctrl-C ends in one line, and --resume goes on to the result."""
    arguments = ["train", str(RECIPES / "digits-teacher.yaml"), "--out", "stopped", "--set", "training.epochs=20"]
    arguments += ["--set", "method.steps=2", "--set", "data={name: digits, train_examples: 200}"]
    # A shell's background job is born ignoring SIGINT, and so would be every process of this suite.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from kdiga.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    state = project / "stopped/state.pt"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    run(*arguments, "--resume", cwd=project)
    assert (project / "stopped/result.json").is_file()
    assert not state.exists()


def test_profile_shows_every_route_and_trains_nothing(project):
    before = sorted((project / "runs").rglob("*"))
    arguments = ["--steps", "2", "--json", "profile.json", "--set", "training.batch_size=32"]
    output = run("profile", str(RECIPES / "digits-kdiga.yaml"), *arguments, cwd=project)
    for route in ("exact", "finite-difference", "one-sided"):
        assert f"{route} fp32" in output
        assert f"{route} bf16" in output
    assert "route auto takes exact" in output
    found = json.loads((project / "profile.json").read_text())
    assert {"teacher", "student", "alignment", "backward", "optimizer", "data"} <= set(found["variants"][0]["sections"])
    assert sorted((project / "runs").rglob("*")) == before


def test_training_says_which_route_it_takes_and_why(project, tmp_path):
    arguments = [*QUICK, "--set", "training.epochs=1", "--set", "training.lr=0.02", "--out", str(tmp_path / "run")]
    output = run("train", str(RECIPES / "digits-kdiga.yaml"), *arguments, cwd=project)
    assert "route: exact, a trial showed that the student can be differentiated twice" in output
    assert json.loads((tmp_path / "run/result.json").read_text())["choices"]["route"]["chosen"] == "exact"
    arguments += ["--overwrite", "--set", "training.route=one-sided"]
    assert "route:" not in run("train", str(RECIPES / "digits-kdiga.yaml"), *arguments, cwd=project)


def test_a_route_that_is_none_names_the_nearest(project):
    error = run("train", str(RECIPES / "digits-kdiga.yaml"), "--set", "training.route=onesided", cwd=project, expect=2)
    assert "did you mean one-sided" in error
    assert len(error.splitlines()) == 1


def test_inspect_says_what_a_model_is(project, tmp_path):
    run("train", str(RECIPES / "digits-teacher.yaml"), *QUICK, "--dry-run", cwd=project)
    told = run("inspect", "run:runs/digits-teacher", "--json", "found.json", cwd=project)
    assert "images: 1x8x8, as its network takes them" in told
    assert "clean-accuracy: right on" in told
    assert "tried on" in told
    names = {one["name"] for one in json.loads((project / "found.json").read_text())["findings"]}
    assert names == {"clean-accuracy", "preprocessing", "input-size", "class-order"}
    model = kdiga.load_model(project / "runs/digits-teacher")
    torch.save(model.network.state_dict(), tmp_path / "w.pt")
    wrong = run(
        "inspect",
        f"file:{tmp_path / 'w.pt'}",
        "--architecture",
        model.spec.name,
        "--normalization",
        "none" if model.spec.mean != (0.0,) else "half",
        "--data",
        "digits",
        cwd=project,
    )
    assert "weights: file" in wrong
    alone = run("inspect", str(project / "runs/digits-teacher/best.safetensors"), "--data", "digits", cwd=tmp_path)
    assert "classes: 10" in alone
    for arguments, message in {
        ("resnet20",): "fresh weights",
        ("runs/digits-teacher", "--classes", "a,b"): "give imagenet, or indices",
        ("runs/digits-teacher", "--matched", "oder"): "did you mean order",
    }.items():
        assert message in run("inspect", *arguments, cwd=project, expect=2)


def test_a_teacher_of_other_images_stops_training(project, tmp_path):
    """Its labels are the digits' in another order."""
    model = kdiga.load_model(project / "runs/digits-teacher")
    with torch.no_grad():
        last = [module for module in model.network.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight.copy_(last.weight.roll(1, 0))
        last.bias.copy_(last.bias.roll(1, 0))
    kdiga.save_model(model, tmp_path / "rolled.safetensors")
    teacher = ["--set", f"teacher.name={tmp_path / 'rolled.safetensors'}", "--out", str(tmp_path / "run")]
    arguments = ["train", str(RECIPES / "digits-tangent.yaml"), *QUICK, *teacher]
    told = run(*arguments, cwd=project, expect=2)
    assert "class-order: right on" in told
    assert "--despite-findings" in told
    assert not (tmp_path / "run").exists()
    told = run(*arguments, "--dry-run", "--despite-findings", cwd=project)
    assert "class-order failed" in told
