"""What results show of themselves in a shell and in a notebook."""

from __future__ import annotations

import sys
from dataclasses import replace

import matplotlib as mpl
import pytest
import torch

import kdiga
from kdiga.display import Displayed, Summary
from kdiga.evaluation import AttackResult
from kdiga.report.page import Page
from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import SuitabilityResult
from kdiga.results.explanations import ExplanationResult
from kdiga.training import EpochRecord
from kdiga.workflows.compare import evaluation_result

THREAT = kdiga.ThreatModel("linf", 0.1)
CONTENT = {"data": "digits", "threat": {"norm": "linf", "eps": 0.1}, "examples": 4, "model": "<net>"}
CURVE = {"radius": [0.0, 0.1], "accuracy": [1.0, 0.5]}


def evaluation(*right: bool) -> kdiga.Evaluation:
    results = {name: AttackResult(name, right, 1.5) for name in ("clean", "fgsm", "pgd-5", "pgd-20", "autoattack")}
    return kdiga.Evaluation(THREAT, results, 0, {}, about={"model": "<net>", "data": "digits"})


def training() -> kdiga.TrainingResult:
    state = {"weight": torch.zeros(10_000)}
    epochs = [EpochRecord(epoch, 0.1, {"label": 1.0}, {"label": 1.0}, None, 0.5, 2.0) for epoch in range(30)]
    return kdiga.TrainingResult("kd", epochs, 3, state, state, 1.0, 0, {}, {}, {})


def comparison() -> kdiga.Comparison:
    return kdiga.compare(evaluation(True, True, False, True), evaluation(True, False, False, True))


EXPLAINED = {"name": "kd", "clean": 0.9, "robust": {"accuracy": 0.5, "interval_95": [0.4, 0.6]}}
RESULTS = {
    "training": training,
    "evaluation": lambda: evaluation(True, True, False, True),
    "comparison": comparison,
    "certificate": lambda: CertificateResult(**CONTENT, clever={"radius": [0.1, None], "curve": CURVE}),
    "explanation": lambda: ExplanationResult(**CONTENT, models=[EXPLAINED], sentences=["kd has a <b>half</b>."]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_short_in_a_shell_and_whole_elsewhere(name):
    result = RESULTS[name]()
    assert 2 <= len(repr(result).splitlines()) <= 5
    assert len(repr(result)) < 600
    assert str(result) == repr(result)
    html, table = result._repr_html_(), result.to_pandas()
    assert html.count("<table>") == html.count("</table>") == 1
    assert "<net>" not in html
    assert "<b>half" not in html
    assert len(table) == len(result._summary().rows)
    mpl.use("agg")
    axes = result.plot()
    assert axes.get_title()
    assert axes.patches or axes.lines
    mpl.pyplot.close(axes.figure)


def test_what_the_lines_say():
    first, *rest = repr(evaluation(True, True, False, True)).splitlines()
    assert first == "Evaluation: <net>, linf eps 0.1, 4 examples, seed 0"
    assert rest[0].startswith("  clean: accuracy 75.0 %, low 19.4 %, high 99.4 %")
    assert rest[-1] == "  and 2 more: to_pandas()"
    assert repr(training()).splitlines()[1] == "  best, 4: robust 50.0 %, seconds 2"
    assert "clean: first 75.0 %, second 50.0 %, difference 25.0 %" in repr(comparison())
    found = SuitabilityResult(**CONTENT, sentence="suitable.", findings=[{"name": "clean", "verdict": "passed"}])
    assert repr(found) == "SuitabilityResult: <net>, suitable."
    assert repr(Page("page.html", [], [])) == "Page: page.html"


def test_data_is_one_line():
    data = kdiga.load_data("digits")
    assert repr(data.test) == "ImageSet(360 images 1x8x8, 10 classes)"
    assert repr(data) == f"DataSet('digits', train=ImageSet(1,437 images 1x8x8, 10 classes), test={data.test!r})"


def test_pandas_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(kdiga.InputError, match=r"to_pandas needs pandas, .* pip install pandas\.$"):
        evaluation(True).to_pandas()


def test_a_long_table_is_cut_in_a_notebook_only():
    class Long(Displayed):
        def _summary(self) -> Summary:
            return Summary("long", [{"row": number, "value": None} for number in range(100)])

    assert Long()._repr_html_().count("<tr>") == 21
    assert len(Long().to_pandas()) == 100


def test_an_evaluation_is_the_content_of_its_file():
    found = replace(evaluation(True, False), findings=[])
    assert evaluation_result(found).measured["fgsm"].value == 0.5
