"""A test of the claims in seconds: 300 digits, nets of two thousand parameters, few images."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from kdiga.study import run as cell_runs

from kdiga.experiments.claims import load_claims, open_claims, run_claims
from kdiga.experiments.claims.records import RunRecords
from kdiga.experiments.claims.run import default_kept
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

    def load(*replaced: tuple[str, str], text: str = TINY, out: str | None = "out", overrides: tuple[str, ...] = ()):
        for old, new in replaced:
            assert old in text, old
            text = text.replace(old, new)
        (folder / "tiny.yaml").write_text(text)
        return load_claims("tiny.yaml", out and Path(out), overrides)

    return load


@pytest.fixture(scope="session")
def data():
    return load_recipe_data(DataConfig("digits", train_examples=300))


def open_in(checked, data, *, kept: Path | None = None, since: float | None = None):
    """Return a recipe's board and its records, those in ``kept`` or beside the recipe."""
    records = RunRecords(kept or default_kept(Path(checked.path)))
    return open_claims(checked, data, records, since=time.time() if since is None else since), records


def go(checked, data, *, kept: Path | None = None, on_watch=None, **options):
    """Run a test of claims in this process; return ``claims.json``'s content and the folders of the runs that ran."""
    watched = []

    def watch(seen):
        watched.append(seen)
        if on_watch is not None:
            on_watch(seen)

    board, records = open_in(checked, data, kept=kept)
    content = run_claims(checked, board, data, records, workers=1, on_watch=watch, **options)
    return content, [seen.ended for seen in watched if seen.ended]


@contextmanager
def pgd_for_autoattack():
    """PGD-5 in AutoAttack's place, which takes seconds a model."""
    attack = cell_runs.evaluate

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
        patch.setattr(cell_runs, "evaluate", evaluate)
        yield


@pytest.fixture
def quick():
    with pgd_for_autoattack():
        yield
