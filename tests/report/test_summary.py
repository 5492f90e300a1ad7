"""The one picture of a few models."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdiga.errors import InputError
from kdiga.report import write_summary
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.explanations import ExplanationResult
from tests.report.samples import evaluation, explanation, pictures, write_json


def test_a_picture_of_curves_and_gradients(tmp_path):
    names = {"teacher": "teacher", "kd": "kd", "tangent": "a name of more than a few letters"}
    evaluations = [EvaluationResult.model_validate(evaluation(one) | {"name": name}) for one, name in names.items()]
    content = explanation(["kd", "tangent"])
    content["models"][1]["gradient"] = {"cosine": None}
    path = write_json(tmp_path / "explanation.json", content)
    coloured = {key: np.repeat(found, 3, 1) if found.ndim == 4 else found for key, found in pictures(3, 6).items()}
    np.savez(tmp_path / "explanation.npz", **coloured)
    write_summary(tmp_path / "figure.png", evaluations, ExplanationResult.read(path))
    with Image.open(tmp_path / "figure.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1200
    halves = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    assert all((half < 200).any() for half in halves), "something is drawn on both sides"
    without = ExplanationResult.read(write_json(tmp_path / "explanation.json", content | {"pictures": None}))
    with pytest.raises(InputError, match="has no pictures"):
        write_summary(tmp_path / "figure.png", evaluations, without)
