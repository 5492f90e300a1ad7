"""One self-contained HTML page from a folder of results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from kdiga.errors import InputError
from kdiga.report import plots
from kdiga.report.verdict import attack_name, verdict

PICTURE = "figure.png"


@dataclass(frozen=True)
class Report:
    """Where the page is, and what it says first."""

    page: Path
    verdict: list[str]


def write_report(folder: Path) -> Report:
    """Write ``report.html`` and ``figure.png`` from ``results.json`` and ``pictures.npz``.

    Raises:
        InputError: if the folder has no readable results.
    """
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text())
        models = results["models"]
        with np.load(folder / results["pictures"]) as stored:
            pictures = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{str(path)!r} has no readable results ({error}); run `kdiga demo --out {folder}`.") from None
    eps = results["threat_model"]["eps"]
    gradients = {entry["name"]: pictures[entry["name"]] for entry in models}
    cosines = {entry["name"]: entry["gradient_cosine"] for entry in models}
    curve = {**results["curves"], "accuracy": {e["name"]: results["curves"]["accuracy"][e["name"]] for e in models}}
    sentences = verdict(models)
    page = folder / "report.html"
    environment = Environment(loader=PackageLoader("kdiga.report"), autoescape=True)
    page.write_text(
        environment.get_template("report.html").render(
            results=results,
            models=models,
            attacks=[attack for attack in ("clean", "pgd-40", "autoattack") if attack in models[0]],
            attack_name=attack_name,
            verdict=sentences,
            colour={entry["name"]: plots.colour(entry["name"], row) for row, entry in enumerate(models)},
            curve=plots.to_svg(plots.accuracy_curve(curve, eps)),
            grid=plots.to_png_uri(plots.gradient_grid(pictures["images"], gradients, cosines)),
        )
    )
    plots.summary_picture(curve, eps, pictures["images"], gradients, cosines).savefig(folder / PICTURE, dpi=110)
    return Report(page, sentences)
