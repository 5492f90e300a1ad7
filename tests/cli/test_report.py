"""``kdiga report`` as a user meets it."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.test_cli import run
from tests.report.samples import evaluation, write_all, write_json


def test_report_prints_the_verdict_and_where_the_page_is(tmp_path):
    write_all(tmp_path / "runs")
    (tmp_path / "runs/kd/last-test.json").write_text("{")
    output = run("report", "runs", cwd=tmp_path)
    assert output.startswith(
        "Yes, in part. The tangent student keeps 80 % of its teacher's robust accuracy (56.0 % vs 70.0 %), with 1/6 of "
    )
    assert "left out: runs/kd/last-test.json, because it is not readable JSON" in output
    assert output.rstrip().endswith(f"Open {(tmp_path / 'runs/report.html').as_uri()}")
    assert "<h1>Did the robustness transfer?</h1>" in (tmp_path / "runs/report.html").read_text()
    again = run("report", "runs", "--title", "Digits", "-o", "page/digits.html", cwd=tmp_path)
    assert again.rstrip().endswith(f"Open {(tmp_path / 'page/digits.html').as_uri()}")
    assert "<h1>Digits</h1>" in (tmp_path / "page/digits.html").read_text()


def test_report_refuses_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    errors = run("report", "empty", cwd=tmp_path, expect=2)
    assert "no readable result is in 'empty'" in errors
    assert len(errors.strip().splitlines()) == 1
    assert "is not a folder" in run("report", "absent", cwd=tmp_path, expect=2)
    write_json(tmp_path / "a/evaluation.json", evaluation("kd"))
    (tmp_path / "a/report.html").write_text("mine")
    assert "was not written by kdiga report" in run("report", "a", cwd=tmp_path, expect=2)
    assert (tmp_path / "a/report.html").read_text() == "mine"
    assert "'empty' is a folder; give the page a file's name" in run(
        "report", "a", "-o", "empty", cwd=tmp_path, expect=2
    )


def test_the_report_needs_no_torch():
    program = "import sys, kdiga.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
