"""A test of the claims in seconds: 300 digits, nets of two thousand parameters, few images."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdiga.experiments import run_one
from kdiga.experiments.claims.claims import load_claims
from kdiga.recipes.schema import DataConfig
from kdiga.workflows.prepare import load_recipe_data

TINY = """\
data: {name: digits, train_examples: 300}
threat: {norm: linf, eps: 0.05}
training: {epochs: 6, batch_size: 16, lr: 1e-2, validation_steps: 2}
teachers:
  robust: {student: cnn-8, method: {name: pgd-at, steps: 2}}
students:
  small: cnn-4
methods:
  ce: ce
  kd: kd
  kdiga: kdiga
  tangent: tangent
judged: [kdiga, tangent]
seeds: [0]
evaluate: {attacks: [clean, autoattack], examples: 40, autoattack_examples: 8}
certify: {examples: 6, batches: 5, batch_size: 4, samples: 20, selection_samples: 10}
explain: {examples: 6, steps: 2, restarts: 1}
"""


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Load a claims recipe of this text in a folder of its own, with some of it replaced."""
    monkeypatch.chdir(tmp_path)
    return loader(tmp_path)


def loader(folder: Path):
    """Return what writes a recipe with some of its text replaced into a folder, and loads it."""

    def load(
        *replaced: tuple[str, str],
        text: str = TINY,
        out: str | None = "out",
        overrides: tuple[str, ...] = (),
        records: Path | None = None,
        despite_findings: bool = False,
    ):
        for old, new in replaced:
            assert old in text, old
            text = text.replace(old, new)
        (folder / "tiny.yaml").write_text(text)
        return load_claims("tiny.yaml", out and Path(out), overrides, records, despite_findings=despite_findings)

    return load


@pytest.fixture(scope="session")
def data():
    return load_recipe_data(DataConfig("digits", train_examples=300))


def go(checked, data, *, on_progress=None, **options):
    """Run a test of claims in this process; return ``claims.json``'s content and the folders of the runs that ran."""
    watched = []

    def watch(seen):
        watched.append(seen)
        if on_progress is not None:
            on_progress(seen)

    content = checked.run(checked.open(data, since=time.time()), data, on_progress=watch, **options)
    return content, [seen.ended for seen in watched if seen.ended]


@contextmanager
def pgd_for_autoattack():
    """PGD-5 in AutoAttack's place, which takes seconds a model."""
    attack = run_one.measure

    def evaluate(*arguments, **keywords):
        swapped = ["pgd-5" if name == "autoattack" else name for name in keywords["attacks"]]
        report = attack(*arguments, **{**keywords, "attacks": swapped})
        object.__setattr__(
            report,
            "results",
            {"autoattack" if name == "pgd-5" else name: result for name, result in report.results.items()},
        )
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_one, "measure", evaluate)
        yield


@pytest.fixture
def quick():
    with pgd_for_autoattack():
        yield
