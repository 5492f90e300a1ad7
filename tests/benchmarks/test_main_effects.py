"""The designed study of kdiga's settings: its design, its recipe and its effects."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import main_effects
from benchmarks.main_effects import FACTORS, RECIPE, design


def test_main_effects_are_clear_of_interactions_of_two_settings():
    levels = design()
    assert levels.shape == (24, len(FACTORS))
    assert (levels.T @ levels == 24 * np.eye(len(FACTORS))).all()
    pairs = np.stack([levels[:, a] * levels[:, b] for a in range(len(FACTORS)) for b in range(a)])
    assert not (pairs @ levels).any()


def test_planted_effects_are_found():
    levels, rng = design(), np.random.default_rng(0)
    planted = np.linspace(-0.05, 0.05, len(FACTORS))
    interaction = 0.01 * levels[:, 0] * levels[:, 1]
    exact = main_effects.main_effects(levels, 0.4 + levels @ planted / 2 + interaction)
    assert [one.effect for one in exact] == pytest.approx(planted)
    noisy = (main_effects.main_effects(levels, levels @ planted / 2 + rng.normal(0, 0.02, 24)) for _ in range(200))
    covered = [one.low <= true <= one.high for found in noisy for one, true in zip(found, planted, strict=True)]
    assert 0.93 < np.mean(covered) < 0.97


def test_the_recipe_is_the_designs():
    assert Path(f"recipes/{RECIPE}.yaml").read_text() == main_effects.recipe()


def test_report(tmp_path):
    for number in range(1, 25):
        folder = tmp_path / f"run-{number:02}/seed-0"
        folder.mkdir(parents=True)
        robust = 0.4 + 0.05 * design()[number - 1][0]
        (folder / "result.json").write_text(json.dumps({"validation": {"last": {"robust": robust, "clean": 0.6}}}))
        (folder / "last-test.json").write_text(json.dumps({"accuracy": {"pgd-20": robust - 0.01, "clean": 0.5}}))
    main_effects.report(tmp_path, tmp_path / "out")
    found = json.loads((tmp_path / "out/main-effects.json").read_text())["effects"]["robust, test"]
    assert found["squared distance"]["effect"] == pytest.approx(0.1)
    assert "| squared distance | +10.0 (+10.0 to +10.0) |" in (tmp_path / "out/main-effects.md").read_text()
    assert (tmp_path / "out/main-effects.png").stat().st_size > 1000
    (tmp_path / "run-07/seed-0/last-test.json").unlink()
    with pytest.raises(SystemExit, match="1 of 24 runs have not finished: run-07"):
        main_effects.report(tmp_path, tmp_path / "out")
