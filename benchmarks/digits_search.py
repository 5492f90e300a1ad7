"""Search for the coefficients of the demo: validation accuracy on digits, one table per question.

    python benchmarks/digits_search.py runs/digits-search

Every table cell is a separate run; a later start repeats no finished run. 30 % of the training images are held out, so
that the differences are significant; the test images are not used. About ten minutes on one core.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from kdiga.recipes.validate import recipe_from_dict
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import run_recipe

SEEDS = (0, 1)
STUDENT = {"name": "cnn-8", "activation": "silu"}
SQUARED = {"name": "kdiga", "distance": "l2-squared", "gradient_weight": 2.0}
TANGENT = {"name": "tangent", "gap_weight": 3.0, "ramp": 0.1}
DISTANCES = {
    "`kd`": {"name": "kd"},
    "`l2`, weight 1": {"name": "kdiga", "gradient_weight": 1.0},
    "`l2`, weight 2": {"name": "kdiga", "gradient_weight": 2.0},
    "`l2`, weight 3": {"name": "kdiga", "gradient_weight": 3.0},
    "`l1`, weight 0.4": {"name": "kdiga", "gradient_weight": 0.4, "distance": "l1"},
    "`l1`, weight 0.8": {"name": "kdiga", "gradient_weight": 0.8, "distance": "l1"},
    "`l2-squared`, weight 1": SQUARED | {"gradient_weight": 1.0},
    "`l2-squared`, weight 2": SQUARED,
    "`l2-squared`, weight 3": SQUARED | {"gradient_weight": 3.0},
    "`tangent`, weight 1": TANGENT | {"gap_weight": 1.0},
    "`tangent`, weight 2": TANGENT | {"gap_weight": 2.0},
    "`tangent`, weight 3": TANGENT,
    "`tangent`, weight 3, ramp 0.3": TANGENT | {"ramp": 0.3},
    "`tangent`, weight 3, three steps": TANGENT | {"steps": 3},
}
TEMPERATURES = {
    f"{name}, temperature {temperature}": method | {"temperature": float(temperature)}
    for temperature in (1, 4, 8)
    for name, method in (("`kd`", {"name": "kd"}), ("`kdiga`", SQUARED), ("`tangent`", TANGENT))
}


def validated(folder: Path, seed: int, model: dict, method: dict, teacher: str | None) -> dict[str, float]:
    """Train one configuration, or read its finished run; return the validation accuracy of the best epoch."""
    recipe = recipe_from_dict(
        {
            "data": "digits",
            "student": model,
            "method": method,
            "threat": {"norm": "linf", "eps": 0.1},
            "training": {"epochs": 30, "batch_size": 64, "lr": 5e-3, "seed": seed, "validation_share": 0.3},
        }
        | ({} if teacher is None else {"teacher": teacher})
    )
    if not (folder / "result.json").is_file():
        run_recipe(prepare(recipe), folder, overwrite=True)
    return json.loads((folder / "result.json").read_text())["validation"]["best"]


def main(out: Path) -> None:
    """Run all configurations and print the tables."""
    torch.set_num_threads(1)
    teachers = {}
    for seed in SEEDS:
        folder = out / f"teacher-{seed}"
        best = validated(folder, seed, {"name": "cnn-32"}, {"name": "pgd-at", "steps": 7}, None)
        teachers[seed] = str(folder)
        print(f"teacher, seed {seed}: PGD-10 {best['robust']:.1%}, clean {best['clean']:.1%}", flush=True)
    for title, cells in (("Distance and weight", DISTANCES), ("Temperature", TEMPERATURES)):
        print(f"\n{title}\n\n| | PGD-10, seed 0 / 1 | clean, seed 0 / 1 |\n|---|---|---|")
        for name, method in cells.items():
            slug = "-".join("".join(c if c.isalnum() or c in ".-" else " " for c in name).split())
            found = [validated(out / f"{slug}-{seed}", seed, STUDENT, method, teachers[seed]) for seed in SEEDS]
            robust, clean = (" / ".join(f"{100 * best[key]:.1f}" for best in found) for key in ("robust", "clean"))
            print(f"| {name} | {robust} | {clean} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
