"""Draw the picture of the README: an image, a small change, and two students' answers, from a run of the demo.

    kdiga demo && python docs/adversarial_picture.py runs/demo

The plain student is ``ce``, the robust one ``tangent``. The change is the plain student's own worst case under PGD-40.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import kdiga

EPS = 0.1
INK, BAD, GOOD = "#1f2933", "#b42318", "#1a7f4b"


def draw(run: Path, target: Path) -> None:
    """Draw the first test image on which only the plain student is fooled, by changes made for either student."""
    images, labels = next(iter(kdiga.load_data("digits").test.batches(360)))
    plain, robust = (kdiga.load_model(run / name).eval() for name in ("ce", "tangent"))
    torch.manual_seed(0)
    changed = _attacked(plain, images, labels)
    right = [_answers(model, one) == labels for model in (plain, robust) for one in (images, changed)]
    own = _answers(robust, _attacked(robust, images, labels)) == labels
    index = int((right[0] & ~right[1] & right[2] & right[3] & own).nonzero()[0])
    image, after = (one[index, 0].numpy() for one in (images, changed))
    _picture(image, after, int(labels[index]), int(_answers(plain, changed)[index])).savefig(target, dpi=130)


def _attacked(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    attack = kdiga.PGD(threat=kdiga.ThreatModel("linf", EPS), steps=40)
    return attack(lambda x: torch.nn.functional.cross_entropy(model(x), labels, reduction="none"), images)


def _answers(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def _picture(image: np.ndarray, changed: np.ndarray, label: int, wrong: int) -> Figure:
    figure = Figure(figsize=(8.6, 3.1), facecolor="white")
    figure.subplots_adjust(left=0.02, right=0.98, top=0.84, bottom=0.24, wspace=0.25)
    panels = figure.subplots(1, 3)
    change = changed - image
    below = [
        [(f"✓ both students: {label}", GOOD)],
        [(f"at most {EPS:g} per pixel,", INK), ("enlarged 5 times for the eye", INK)],
        [(f"✗ ordinary student: {wrong}", BAD), (f"✓ robust student: {label}", GOOD)],
    ]
    pictures = [1 - image, 0.5 - 5 * change, 1 - changed]
    for axes, picture, title, lines in zip(panels, pictures, ("image", "change", "changed image"), below, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=13, color=INK)
        for place, (text, color) in enumerate(lines):
            axes.text(
                0.5,
                -0.09 - 0.13 * place,
                text,
                color=color,
                fontsize=12,
                ha="center",
                va="top",
                transform=axes.transAxes,
            )
    for x, sign in ((0.345, "+"), (0.655, "=")):
        figure.text(x, 0.53, sign, fontsize=24, color=INK, ha="center", va="center")
    return figure


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent / "images" / "adversarial.png")
