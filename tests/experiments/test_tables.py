"""Tables and picture from a ``study.json`` made by hand: the arithmetic, and labels that can be read."""

from __future__ import annotations

import csv
import json

import pytest

from kdiga.errors import InputError
from kdiga.report.study import headings, table_rows, write_tables
from kdiga.report.tables import MeanAndRange
from kdiga.results.attack_names import strongest
from kdiga.results.studies import StudyResult, StudyRun

HARDWARE = {"processor": "a processor", "cores": 2, "threads": 1, "accelerator": None}


def run(label, seed, robust, *, passes=300, minutes=2.0, status="done"):
    done = status == "done"
    accuracy = {"clean": 0.9, "autoattack": robust}
    return {
        "folder": f"{label}/seed-{seed}",
        "seed": seed,
        "status": status,
        "epochs": 5,
        "best_epoch": 4,
        "error": None if done else "training diverged in epoch 2",
        "minutes": minutes if done else None,
        "passes": {
            "student_forwards": passes,
            "student_backwards": 2 * passes,
            "teacher_forwards": 50,
            "teacher_backwards": 0,
        }
        if done
        else None,
        "parameters": 100,
        "accuracy": {"best": accuracy, "last": accuracy} if done else {},
        "date": f"2026-01-0{seed + 1}T00:00:00+00:00" if done else None,
        "hardware": HARDWARE if done else None,
    }


@pytest.fixture
def content():
    tuning = {"chosen": {"folder": "x", "coefficients": {"weight": 2.5}, "robust": 0.61}, "trials": [{}] * 6}
    return {
        "title": "by hand",
        "command": "kdiga study by-hand.yaml",
        "which": ["best", "last"],
        "seeds": [0, 1, 2],
        "data": {"name": "digits", "source": "s", "training_images": 1437},
        "threat": {"norm": "linf", "eps": 0.1},
        "attacks": {"clean": 1000, "autoattack": 200},
        "done": 6,
        "total": 7,
        "teachers": [{"label": "robust", "method": "pgd-at", "runs": [run("teachers/robust", 0, 0.8)]}],
        "methods": [
            {"label": "kd", "method": "kd", "tuning": None, "runs": [run("kd", seed, 0.1) for seed in range(3)]},
            {
                "label": "long",
                "method": "kdiga",
                "tuning": tuning,
                "runs": [
                    run("long", 0, 0.60, passes=100, minutes=1.0),
                    run("long", 1, 0.64, passes=300, minutes=4.0),
                    run("long", 2, 0, status="diverged"),
                ],
            },
        ],
    }


def test_mean_and_sample_deviation():
    spread = MeanAndRange.of([0.60, 0.64, 0.65])
    assert (round(spread.mean, 4), round(spread.deviation, 6), spread.n) == (0.63, 0.026458, 3)
    assert spread.percent() == "63.0 ± 2.6"
    assert MeanAndRange.of([0.5]).percent() == "50.0", "one run has no spread"
    assert MeanAndRange.of([]) is None


def test_rows(content):
    teacher, kd, long = table_rows(StudyResult.model_validate(content))
    assert headings(StudyResult.model_validate(content)) == [
        "method",
        "runs",
        "clean, best",
        "AutoAttack, best",
        "clean, last",
        "AutoAttack, last",
        "minutes",
        "student passes",
        "teacher passes",
    ]
    assert teacher.texts() == ["robust (teacher)", "1/1", "90.0", "80.0", "90.0", "80.0", "2.00", "900", "50"]
    assert kd.texts()[:4] == ["kd", "3/3", "90.0 ± 0.0", "10.0 ± 0.0"]
    assert long.texts() == [
        "long",
        "2/3, 1 diverged",
        "90.0 ± 0.0",
        "62.0 ± 2.8",
        "90.0 ± 0.0",
        "62.0 ± 2.8",
        "2.50",
        "600",
        "50",
    ]
    content["methods"][0]["runs"][0]["passes"] = None
    assert table_rows(StudyResult.model_validate(content))[1].texts()[-2:] == ["-", "-"], (
        "not a mean over some of the seeds"
    )
    assert StudyRun.model_validate(run("kd", 0, 0.1, passes=4)).passes_of("student") == 12


def test_files(content, tmp_path):
    (tmp_path / "study.json").write_text(json.dumps(content))
    write_tables(tmp_path)
    text = (tmp_path / "table.md").read_text()
    for part in (
        "`kdiga study by-hand.yaml`: 6 of 7 cells finished",
        "seeds 0, 1, 2; test images: clean 1,000, AutoAttack 200",
        "2026-01-01 to 2026-01-03; a processor, 2 cores, 1 thread, no GPU",
        "| long | 2/3, 1 diverged |",
        "- long/seed-2 diverged: training diverged in epoch 2",
        "- long: weight 2.5, the best of 6 trials on validation images (61.0 % robust)",
    ):
        assert part in text
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["robust"] + ["kd"] * 3 + ["long"] * 3
    assert (rows[5]["autoattack_best"], rows[5]["student_passes"], rows[5]["role"]) == ("0.64", "900", "method")
    assert (rows[6]["status"], rows[6]["autoattack_best"]) == ("diverged", "")
    assert (tmp_path / "scatter.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "scatter.svg").read_text()
    for part in ("teacher robust", ">kd<", ">long<", "network passes in training"):
        assert part in picture
    write_tables(tmp_path)
    assert (tmp_path / "scatter.svg").read_text() == picture


def test_a_study_without_a_finished_run_has_tables(content, tmp_path):
    content["teachers"] = []
    for entry in content["methods"]:
        for one in entry["runs"]:
            one |= run("x", 0, 0, status="open") | {"error": None}
    (tmp_path / "study.json").write_text(json.dumps(content))
    write_tables(tmp_path)
    assert "| kd | 0/3 | - |" in (tmp_path / "table.md").read_text()
    with pytest.raises(InputError, match="no readable study"):
        write_tables(tmp_path / "none")


def test_the_measure_that_counts():
    assert strongest(["clean", "autoattack", "pgd-20"]) == "autoattack"
    assert strongest(["clean", "pgd-20"]) == "pgd-20"
