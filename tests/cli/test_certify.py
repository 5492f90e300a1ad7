"""`kdiga certify`: what it prints, keeps, adds to, continues and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import RECIPES, run

SMALL = ("--set", "training.epochs=1", "--set", "method=ce")
CLEVER = ("--clever-batches", "10", "--clever-batch-size", "4")
SMOOTH = ("--samples", "50", "--selection-samples", "10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A quick ReLU student and teacher on digits, and a student with SiLU."""
    path = tmp_path_factory.mktemp("certified")
    for name, settings in (
        ("teacher", ("student=cnn-8",)),
        ("student", ("student=cnn-4",)),
        ("smooth", ("student.name=cnn-4", "student.activation=silu")),
    ):
        chosen = [part for setting in settings for part in ("--set", setting)]
        run("train", str(RECIPES / "digits-teacher.yaml"), *SMALL, *chosen, "--out", name, cwd=path)
    return path


def certificate(folder: Path, name: str, examples: int) -> dict:
    return json.loads((folder / name / f"certification/best-linf-0.1-{examples}/certificate.json").read_text())


def test_each_method_says_what_kind_of_statement_it_makes(folder):
    ask = ("certify", "student", "--examples", "6", "--method")
    output = run(*ask, "clever,smoothing,interval", *CLEVER, *SMOOTH, "--radius", "1/10,0.3", cwd=folder)
    assert "estimate, no lower bound" in output
    assert "confidence 0.999 per example" in output
    assert "proof" in output
    assert "student/certification/best-linf-0.1-6" in output
    found = certificate(folder, "student", 6)
    assert (found["kind"], found["which"], found["examples"], found["data"]) == ("certificate", "best", 6, "digits")
    assert found["threat"] == {"norm": "linf", "eps": 0.1}
    assert found["command"].startswith("kdiga certify student")
    assert len(found["fingerprint"]) == 64
    assert found["provenance"]["versions"]["torch"]
    for name, norm in (("clever", "linf"), ("smoothing", "l2"), ("interval", "linf")):
        part = found[name]
        assert part["norm"] == norm
        assert len(part["radius"]) == 6
        assert part["curve"]["radius"][0] == 0
        known = [0 if radius is None else radius for radius in part["radius"]]
        assert part["curve"]["accuracy"][0] == pytest.approx(sum(radius > 0 for radius in known) / 6)
        assert part["curve"]["accuracy"] == sorted(part["curve"]["accuracy"], reverse=True)
    assert {"failed", "wrong", "goodness", "batches", "batch_size", "max_radius"} <= set(found["clever"])
    assert {"sigma", "samples", "selection_samples", "alpha", "abstained", "wrong"} <= set(found["smoothing"])
    assert {"accuracy", "interval_95", "max_radius"} <= set(found["interval"])


def test_results_grow_and_continue(folder):
    ask = ("certify", "student", "--examples", "7", "--method")
    run(*ask, "clever", *CLEVER, cwd=folder)
    kept = sorted((folder / "student/certification/best-linf-0.1-7/portions").glob("*.json"))
    run(*ask, "smoothing", *SMOOTH, cwd=folder)
    found = certificate(folder, "student", 7)
    assert {"clever", "smoothing"} <= set(found)
    run(*ask, "clever", *CLEVER, cwd=folder)
    again = certificate(folder, "student", 7)
    assert again["clever"] == found["clever"]
    assert again["smoothing"] == found["smoothing"]
    assert set(kept) <= set((folder / "student/certification/best-linf-0.1-7/portions").glob("*.json"))
    refused = run(*ask, "clever", *CLEVER, "--seed", "1", cwd=folder, expect=2)
    assert "seed is 0 there and 1 here" in refused
    assert certificate(folder, "student", 7) == again
    run(*ask, "clever", *CLEVER, "--seed", "1", "--overwrite", cwd=folder)
    assert "smoothing" not in certificate(folder, "student", 7)


def test_against_a_teacher(folder):
    ask = ("certify", "student", "--against", "teacher", "--examples", "5", "--out", "pair", "--json", "copy.json")
    output = run(*ask, "--method", "clever,interval", *CLEVER, "--max-radius", "0.02", cwd=folder)
    assert "against teacher: on" in output
    assert "Alignment (bounded by intervals" in output
    run(*ask, "--method", "smoothing", *SMOOTH, cwd=folder)
    found = json.loads((folder / "pair/certificate.json").read_text())
    assert found == json.loads((folder / "copy.json").read_text())
    against = found["against"]
    assert set(against) == {"teacher", "clever", "interval", "smoothing"}, "an earlier call's comparisons stay"
    assert against["teacher"]["model"] == "teacher"
    assert against["teacher"]["parameters"] > found["parameters"]
    for name in ("clever", "interval", "smoothing"):
        assert against[name]["student_radius"] == found[name]["radius"]
        assert len(against[name]["teacher_radius"]) == 5
        assert {"share_at_least_teacher", "share_interval_95", "teacher_curve", "student_curve"} <= set(against[name])
    assert {"guaranteed_radius", "rho", "margin_gap", "alignment"} <= set(against["clever"])
    assert "rho" not in against["smoothing"]
    # New radii of the student replace the comparison of the old ones.
    run("certify", "student", *ask[4:], "--method", "clever", *CLEVER, "--max-radius", "0.01", cwd=folder)
    found = json.loads((folder / "pair/certificate.json").read_text())
    assert found["clever"]["max_radius"] == 0.01
    assert set(found["against"]) == {"teacher", "interval", "smoothing"}
    # Another teacher's comparisons are not mixed with these.
    run(*ask[:2], "--against", "smooth", *ask[4:], "--method", "smoothing", *SMOOTH, cwd=folder)
    assert set(json.loads((folder / "pair/certificate.json").read_text())["against"]) == {"teacher", "smoothing"}


def test_a_file_of_weights_needs_a_place(folder):
    output = run("certify", "student/best.safetensors", "--examples", "3", "--method", "interval", cwd=folder)
    assert "Results:" not in output
    assert "proof" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("student", "--method", "clevr"), "clever"),
        (("student", "--method", "interval,"), "method ''"),
        (("smooth", "--method", "clever,interval"), "SiLU"),
        (("student", "--against", "smooth", "--method", "interval"), "of the teacher"),
        (("student", "--clever-batches", "2"), "at least 5 batches"),
        (("student", "--sigma", "0"), "sigma"),
        (("student", "--alpha", "2"), "alpha"),
        (("student", "--samples", "5"), "at least 10 samples"),
        (("student", "--max-radius", "no"), "not a number"),
        (("student", "--max-radius", "0"), "above 0"),
        (("student", "--eps", "0"), "above 0"),
        (("student", "--radius", "-1"), "radii are at least 0"),
        (("nothing", "--data", "digits"), "nothing"),
        (("student", "--data", "cifar10", "--root", "none"), "none"),
    ],
)
def test_bad_input_is_one_line(folder, arguments, message):
    refused = run("certify", *arguments, "--examples", "3", cwd=folder, expect=2)
    assert message in refused
    assert refused.count("\n") == 1
    assert not (folder / "smooth/certification").exists(), "nothing was measured before the refusal"
