"""A curve's table, sentences and picture, from made-up numbers."""

from __future__ import annotations

import copy
import csv
import io

import numpy as np
import pytest
from matplotlib.colors import to_hex

from kdiga.report.curve import (
    DARK,
    LIGHT,
    answer_lines,
    curve_csv,
    curve_markdown,
    draw_curve,
    headings,
    table_rows,
    write_curve_files,
)
from kdiga.results.studies import CurveResult

HARDWARE = {"processor": "a processor", "cores": 2, "threads": 1, "accelerator": None}


def run(folder, clean, robust, *, lost=None, value_of=0.5):
    made = {
        "folder": folder,
        "seed": 0,
        "status": "done",
        "error": None,
        "best_epoch": 1,
        "minutes": 2.0,
        "date": "2026-01-02T03:04:05",
        "hardware": HARDWARE,
        "test": {
            "accuracy": {"clean": clean, "pgd-20": robust},
            "examples": {"clean": 100, "pgd-20": 100},
            "interval_95": {"clean": [clean - 0.1, clean], "pgd-20": [max(0, robust - 0.1), robust + 0.1]},
        },
        "validation": {"accuracy": {"clean": clean, "robust": robust}, "examples": {"clean": 50, "robust": 50}},
        "confirmed": None,
    }
    if lost is not None:
        made["validation_change"] = {"clean": [-lost, -lost - 0.1, 0.1 - lost], "robust": [value_of, 0.4, 0.6]}
        made["test_change"] = {"clean": [-0.012, -0.03, 0.01], "pgd-20": [robust, robust - 0.05, robust + 0.05]}
        made["confirmed_change"] = None
    return made


@pytest.fixture
def content():
    runs = [
        run("w-0/seed-0", 0.91, 0.05, lost=-0.002),
        run("w-1/seed-0", 0.9, 0.4, lost=0.008),
        run("w-3/seed-0", 0.8, 0.6, lost=0.11),
    ]
    return {
        "title": "mine",
        "command": "kdiga curve mine.yaml --over method.w=0,1,3",
        "key": "w",
        "method": "kdiga",
        "student": "runs/pre",
        "data": {"name": "digits", "source": "-", "training_images": 1437},
        "threat": {"norm": "linf", "eps": 0.1},
        "attacks": {"clean": 100, "pgd-20": 100},
        "validation_attack": "pgd-10",
        "seeds": [0],
        "done": 4,
        "total": 4,
        "at_most": 1.0,
        "start": {"runs": [run("start/seed-0", 0.912, 0.0)]},
        "points": [{"value": value, "runs": [one]} for value, one in zip((0.0, 1.0, 3.0), runs, strict=True)],
        "answer": {"settled": True, "achieved": True, "value": 1.0, "why": None},
    }


def test_the_table(content):
    assert headings(CurveResult.model_validate(content))[:3] == ["w", "clean, test", "PGD-20, test"]
    rows = table_rows(CurveResult.model_validate(content))
    assert [row[0] for row in rows] == ["start", "0", "1", "3"]
    assert rows[0] == ["start", "91.2", "0.0", "91.2", "0.0", "-", "2.0", ""]
    assert rows[2] == ["1", "90.0", "40.0", "90.0", "40.0", "0.8", "2.0", "chosen"]
    assert all(len(row) == len(headings(CurveResult.model_validate(content))) for row in rows)
    content["points"][2]["runs"][0] |= {"status": "diverged", "test": None, "validation": None, "error": "nan"}
    del content["points"][2]["runs"][0]["validation_change"]
    assert table_rows(CurveResult.model_validate(content))[3] == ["3", "-", "-", "-", "-", "-", "2.0", "diverged"]
    assert "- w-3/seed-0 diverged: nan" in curve_markdown(CurveResult.model_validate(content))


def test_the_answer_tells_gain_and_price(content):
    first, second = answer_lines(CurveResult.model_validate(content))
    assert "at a loss of at most 1 points of validation clean accuracy: w 1, which lost 0.8 there." in first
    assert "clean 90.0 %, -1.2 points [-3.0, +1.0] on 100 images" in second
    assert "PGD-20 40.0 %, +40.0 points [+35.0, +45.0] on 100 images" in second
    content["answer"] = {"settled": True, "achieved": False, "value": None, "why": "no point is better"}
    assert answer_lines(CurveResult.model_validate(content)) == [
        "Not achieved at a loss of at most 1 points of validation clean accuracy: no point is better."
    ]
    content["answer"]["settled"] = False
    assert answer_lines(CurveResult.model_validate(content)) == ["No answer yet: 4 of 4 runs have ended."]


def test_the_costly_attack_is_told_where_it_was_made(content):
    for part, accuracy in ((content["start"], 0.0), (content["points"][1], 0.35)):
        part["runs"][0]["confirmed"] = {
            "accuracy": {"clean": 0.9, "autoattack": accuracy},
            "examples": {"clean": 20, "autoattack": 20},
            "interval_95": {},
        }
    changes = {"clean": [0.0, 0.0, 0.0], "autoattack": [0.35, 0.2, 0.5]}
    content["points"][1]["runs"][0]["confirmed_change"] = changes
    at = headings(CurveResult.model_validate(content)).index("AutoAttack, 20 test")
    assert [row[at] for row in table_rows(CurveResult.model_validate(content))] == ["0.0", "-", "35.0", "-"]
    told = answer_lines(CurveResult.model_validate(content))[1]
    assert "AutoAttack 35.0 %, +35.0 points [+20.0, +50.0] on 20 images" in told
    assert told.count("clean") == 1


def test_the_costly_attack_is_a_mean_over_seeds(content):
    part = content["start"]
    part["runs"].append(copy.deepcopy(part["runs"][0]) | {"seed": 1})
    for run_, accuracy in zip(part["runs"], (0.2, 0.4), strict=True):
        made = {"accuracy": {"clean": 0.9, "autoattack": accuracy}, "examples": {"clean": 20, "autoattack": 20}}
        run_["confirmed"] = made | {"interval_95": {}}
    curve = CurveResult.model_validate(content)
    at = headings(curve).index("AutoAttack, 20 test")
    assert table_rows(curve)[0][at] == "30.0 ± 14.1"
    assert table_rows(curve)[1][at] == "-"


def test_several_seeds_are_means_with_their_spread(content):
    for part in (content["start"], *content["points"]):
        other = copy.deepcopy(part["runs"][0]) | {"seed": 1}
        other["test"]["accuracy"]["clean"] += 0.02
        part["runs"].append(other)
    assert table_rows(CurveResult.model_validate(content))[1][1] == "92.0 ± 1.4"
    assert [line.split(":")[0] for line in answer_lines(CurveResult.model_validate(content))[1:]] == [
        "On test images, against the start, seed 0",
        "On test images, against the start, seed 1",
    ]


def test_the_csv_has_a_line_a_run(content):
    lines = list(csv.DictReader(io.StringIO(curve_csv(CurveResult.model_validate(content)))))
    assert [line["w"] for line in lines] == ["start", "0", "1", "3"]
    assert [line["chosen"] for line in lines] == ["0", "0", "1", "0"]
    assert float(lines[2]["pgd-20_change_test_low"]) == pytest.approx(0.35)
    assert lines[0]["pgd-20_change_test_low"] == ""


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_marks_start_choice_and_loss(content, dark):
    figure = draw_curve(CurveResult.model_validate(content), dark=dark)
    (axes,), ink = figure.axes, DARK if dark else LIGHT
    lines = {marker: [line for line in axes.lines if line.get_marker() == marker] for marker in ("*", "o")}
    (star,) = lines["*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (91.2, 0.0)
    small = [line for line in lines["o"] if line.get_markersize() < 10]
    spots = {line.get_xdata()[0]: to_hex(line.get_markerfacecolor()) for line in small}
    assert spots == {91.0: ink.curve, 90.0: ink.curve, 80.0: ink.paper}, "hollow where too much was lost"
    (ring,) = (line for line in lines["o"] if line.get_markersize() > 10)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (90.0, 40.0)
    assert [text.get_text() for text in axes.texts] == ["start", "0", "1", "3"]
    assert to_hex(figure.get_facecolor()) == ink.paper
    assert axes.get_ylabel() == "accuracy under PGD-20 (%)"


@pytest.mark.parametrize("ink", [LIGHT, DARK])
def test_letters_and_marks_stand_out(ink):
    def light(colour):
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    def contrast(one, other):
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)  # WCAG 2

    assert contrast(ink.text, ink.paper) > 7
    assert min(contrast(colour, ink.paper) for colour in (ink.curve, ink.start, ink.soft)) > 3


def test_files_before_any_run_has_ended(content, tmp_path):
    for part in (content["start"], *content["points"]):
        nothing = {"status": "open", "test": None, "validation": None, "minutes": None, "date": None}
        part["runs"] = [run("x", 0, 0) | nothing]
    content["answer"] = {"settled": False, "achieved": False, "value": None, "why": "not every run has ended"}
    write_curve_files(tmp_path, CurveResult.model_validate(content))
    assert "No answer yet" in (tmp_path / "curve.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "curve.csv",
        "curve.md",
        "curve.png",
        "curve-dark.png",
        "curve.svg",
    }
