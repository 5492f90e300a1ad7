"""A test of the claims in seconds: 300 digits, nets of two thousand parameters, few images."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdiga.claims import load_claims
from kdiga.config import DataConfig
from kdiga.config.run import data_of

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
    return data_of(DataConfig("digits", train_examples=300))
