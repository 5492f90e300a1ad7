"""The one picture of a few models."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from kdiga.report import write_summary


def test_a_picture_of_curves_and_gradients(tmp_path):
    names = ["teacher", "kd", "a name of more than a few letters"]
    sweep = {"attack": "pgd-20", "eps": [0, 0.1, 0.2], "accuracy": [0.9, 0.5, 0.1]}
    evaluations = [{"name": name, "threat": {"norm": "linf", "eps": 0.1}, "sweep": sweep} for name in names]
    models = [{"gradient": {}}, {"gradient": {"cosine": 0.25}}, {"gradient": {"cosine": None}}]
    (tmp_path / "explanation.json").write_text(json.dumps({"models": models, "pictures": "explanation.npz"}))
    rng = np.random.default_rng(0)
    arrays = {f"gradient_{place}": rng.normal(size=(6, 3, 8, 8)) for place in range(3)}
    np.savez(tmp_path / "explanation.npz", images=rng.random((6, 3, 8, 8)), **arrays)
    write_summary(tmp_path / "figure.png", evaluations, tmp_path / "explanation.json")
    with Image.open(tmp_path / "figure.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1200
    halves = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    assert all((half < 200).any() for half in halves), "something is drawn on both sides"
