"""What decides how much robustness kdiga transfers: main effects of ten settings, on validation images.

    python benchmarks/main_effects.py recipe > recipes/study-settings-cifar10.yaml
    kdiga study recipes/study-settings-cifar10.yaml
    python benchmarks/main_effects.py report runs/study-settings-cifar10 --out runs/main-effects

Each setting has two levels. The 24 runs are a Plackett-Burman design of 12 runs and its mirror image (fold-over), so
that no main effect is mixed with an interaction of two settings. An effect is the mean of the 12 runs at the second
level less the mean of the 12 at the first. Its 95 % interval is that of a linear model of all main effects: what they
do not explain, interactions included, counts as noise. The response is the accuracy of each run's last weights under
PGD-10: the best ones are chosen on the same images. What validation images say is confirmed on test images, by PGD-20.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kdiga.report.charts import axes_of, bars, write_png

RECIPE = "study-settings-cifar10"
# Settings by name: the keys of a recipe at the first level, and at the second.
FACTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "squared distance": ({"method": {"distance": "l2"}}, {"method": {"distance": "l2-squared"}}),
    "gradient weight 3, not 1": ({"method": {"gradient_weight": 1}}, {"method": {"gradient_weight": 3}}),
    "ramp over 0.6, not 0.3": ({"method": {"ramp": 0.3}}, {"method": {"ramp": 0.6}}),
    "no labels": (
        {"method": {"label_weight": 0.5, "teacher_weight": 0.5}},
        {"method": {"label_weight": 0, "teacher_weight": 1}},
    ),
    "noisy views (KDIGA-RS)": ({"method": {"random_start": False}}, {"method": {"random_start": True}}),
    "weight averaging (EMA 0.99)": ({"training": {"ema": 0}}, {"training": {"ema": 0.99}}),
    "weight perturbation (AWP)": ({"training": {"awp": 0}}, {"training": {"awp": 0.005}}),
    "cnn-32, not cnn-16": ({"student": {"name": "cnn-16"}}, {"student": {"name": "cnn-32"}}),
    "ReLU, not SiLU": ({"student": {"activation": "silu"}}, {"student": {"activation": "relu"}}),
    "4 epochs, not 2": ({"training": {"epochs": 2}}, {"training": {"epochs": 4}}),
}
GENERATOR = (1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1)  # first row of the design of 12 runs (Plackett and Burman, 1946)
HEADER = f"""# What decides how much robustness kdiga transfers? Ten settings at two levels each, in 24 runs.
#   kdiga study recipes/{RECIPE}.yaml
#   python benchmarks/main_effects.py report runs/{RECIPE} --out runs/main-effects
# Written by benchmarks/main_effects.py, which describes the design. Its answer uses validation images; test
# images confirm it. weights/ holds resnet4b.pth of alpha-beta-CROWN. About two hours on one CPU
# core.
base:
  data: {{name: cifar10, train_examples: 20000}}
  teacher: {{name: resnet4b, weights: weights/resnet4b.pth, normalization: cifar10}}
  threat: {{norm: linf, eps: 4/255}}
  training:
    {{batch_size: 64, optimizer: adamw, lr: 4e-3, schedule: one-cycle, augment: crop-flip, route: exact,
     validation_examples: 1000, validation_steps: 10}}
methods:
"""


def design() -> NDArray[np.int_]:
    """Return the levels of each setting, -1 or 1, in each of the 24 runs; shape (24, settings)."""
    cyclic = np.array([np.roll(GENERATOR, shift) for shift in range(len(GENERATOR))])
    half = np.vstack([cyclic, -np.ones((1, len(GENERATOR)), int)])
    return np.vstack([half, -half])[:, : len(FACTORS)]


def recipe() -> str:
    """Return the study as YAML, a run in a line."""
    lines = [HEADER]
    for number, levels in enumerate(design(), 1):
        sections: dict[str, dict[str, Any]] = {"student": {}, "method": {"name": "kdiga"}, "training": {}}
        for (low, high), level in zip(FACTORS.values(), levels, strict=True):
            for section, keys in (high if level > 0 else low).items():
                sections[section] |= keys
        lines.append(f"  run-{number:02}: {json.dumps(sections)}\n".replace('"', ""))
    lines.append("seeds: [0]\nevaluate: {attacks: [clean, pgd-20], examples: 1000, which: [last]}\n")
    return "".join(lines)


@dataclass(frozen=True)
class Effect:
    """A difference of two means, and its 95 % interval, in shares of the images."""

    effect: float
    low: float
    high: float


def main_effects(levels: NDArray[np.int_], response: NDArray[np.float64]) -> list[Effect]:
    """Return the effect of each setting by least squares; levels of shape (runs, settings) are -1 or 1."""
    runs, settings = levels.shape
    matrix = np.hstack([np.ones((runs, 1)), levels])
    solution, *_ = np.linalg.lstsq(matrix, response, rcond=None)
    freedom = runs - settings - 1
    variance = float(((response - matrix @ solution) ** 2).sum() / freedom)
    covariance = variance * np.linalg.inv(matrix.T @ matrix)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(np.diag(covariance))
    return [Effect(2 * a, 2 * (a - h), 2 * (a + h)) for a, h in zip(solution[1:], half[1:], strict=True)]


def responses(runs: Path) -> dict[str, NDArray[np.float64]]:
    """Return the accuracies of the last weights of all runs, by their kind."""
    folders = [runs / f"run-{number:02}/seed-0" for number in range(1, len(design()) + 1)]
    missing = [folder.parent.name for folder in folders if not (folder / "last-test.json").is_file()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(folders)} runs have not finished: {', '.join(missing)}")
    last = [json.loads((folder / "result.json").read_text())["validation"]["last"] for folder in folders]
    test = [json.loads((folder / "last-test.json").read_text())["accuracy"] for folder in folders]
    return {
        "robust, validation": np.array([one["robust"] for one in last]),
        "clean, validation": np.array([one["clean"] for one in last]),
        "robust, test": np.array([one["pgd-20"] for one in test]),
        "clean, test": np.array([one["clean"] for one in test]),
    }


def report(runs: Path, out: Path) -> None:
    """Write the effects as main-effects.json, .md and .png."""
    out.mkdir(parents=True, exist_ok=True)
    given = responses(runs)
    effects = {kind: main_effects(design(), response) for kind, response in given.items()}
    content = {kind: dict(zip(FACTORS, (vars(one) for one in found), strict=True)) for kind, found in effects.items()}
    accuracies = {kind: response.tolist() for kind, response in given.items()}
    text = json.dumps({"effects": content, "accuracies": accuracies}, indent=2)
    (out / "main-effects.json").write_text(text + "\n")
    shown = effects["robust, validation"]
    order = sorted(range(len(FACTORS)), key=lambda place: -abs(shown[place].effect))
    names = list(FACTORS)
    rows = [f"| setting | {' | '.join(effects)} |", f"|---{'|---' * len(effects)}|"]
    rows += [f"| {names[place]} | {' | '.join(cell(found[place]) for found in effects.values())} |" for place in order]
    (out / "main-effects.md").write_text("\n".join(rows) + "\n")
    drawn = {kind: [effects[kind][place] for place in order] for kind in ("robust, validation", "robust, test")}
    picture(out / "main-effects.png", [names[place] for place in order], drawn)


def cell(one: Effect) -> str:
    """Return an effect and its interval in points."""
    return f"{100 * one.effect:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def picture(path: Path, names: list[str], effects: dict[str, list[Effect]]) -> None:
    """Draw the effects from the largest down, with their intervals, a marker a kind."""
    figure, axes = axes_of(width=6.4, height=0.9 + 0.34 * len(names))
    places = np.arange(len(names))
    for (kind, found), shift, marker, color in zip(
        effects.items(), (-0.12, 0.12), "os", ("#0072b2", "#d55e00"), strict=True
    ):
        values = [100 * one.effect for one in found]
        intervals = [(100 * one.low, 100 * one.high) for one in found]
        axes.errorbar(values, places + shift, xerr=bars(values, intervals), fmt=marker, color=color, label=kind)
    axes.axvline(0, color="#515253", linewidth=1)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("effect on robust accuracy, points")
    axes.legend(loc="lower right")
    write_png(path, figure)


def main() -> None:
    """Write the recipe to standard output, or the report of its runs."""
    parser = argparse.ArgumentParser(description="Main effects of ten settings of kdiga.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("recipe", help="print the study")
    reporting = commands.add_parser("report", help="write table and picture of a finished study")
    reporting.add_argument("runs", type=Path, help="folder of the study")
    reporting.add_argument("--out", type=Path, required=True, help="folder of the files to write")
    given = parser.parse_args()
    if given.command == "recipe":
        sys.stdout.write(recipe())
    else:
        report(given.runs, given.out)


if __name__ == "__main__":
    main()
