"""A study of seconds: 200 digits, nets of two thousand parameters, no AutoAttack unless asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdiga.experiments.study import load_study

TINY = """\
base:
  data: {name: digits, train_examples: 400}
  student: cnn-4
  teacher: robust
  threat: {norm: linf, eps: 0.1}
  training: {epochs: 3, batch_size: 16, lr: 1e-2, validation_steps: 2}
teachers:
  robust: {student: cnn-8, method: ce}
methods:
  ce: ce
  kd: {name: kd, temperature: 4}
seeds: [0, 1]
evaluate: {attacks: [clean, pgd-2], examples: 40}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Load a study of this text in a folder of its own, with some of it replaced."""
    monkeypatch.chdir(tmp_path)

    def load(*replaced: tuple[str, str], text: str = TINY, out: str = "out", overrides: tuple[str, ...] = ()):
        for old, new in replaced:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / "tiny.yaml").write_text(text)
        return load_study("tiny.yaml", Path(out), overrides)

    return load
