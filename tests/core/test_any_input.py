"""Each argument of each public function, replaced by about twenty wrong ones: one sentence, no library's error."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kdiga

IMAGES, LABELS = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
WRONG = {
    "none": None,
    "empty": "",
    "word": "nonsense",
    "null": "\0",
    "bytes": b"nonsense",
    "zero": 0,
    "minus": -1,
    "fraction": 1.5,
    "nan": math.nan,
    "infinite": math.inf,
    "huge": 2**80,
    "true": True,
    "list": [],
    "numbers": [1, 2],
    "dict": {"a": 1},
    "triple": (1, "a", None),
    "object": object(),
    "class": dict,
    "function": lambda images: images,
    "vector": torch.rand(2),
    "integers": torch.ones(2, 1, 4, 4, dtype=torch.int64),
    "array": np.zeros((8, 1, 4, 4)),
    "path": Path("missing/folder"),
    "module": nn.Identity(),
}
LONGEST = 300


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


SHORT = {"epochs": 1, "batch_size": 8, "validation_steps": 1, "method": "kd", "stop_at_chance": False}
PLANE = kdiga.ImageSet(IMAGES, LABELS, ["a", "b"])
FUNCTIONS = {
    "align": (kdiga.align, {"student": net, "teacher": net, "images": IMAGES, "labels": LABELS}),
    "input_gradient": (kdiga.input_gradient, {"model": net, "images": IMAGES, "labels": LABELS}),
    "evaluate": (kdiga.evaluate, {"model": net, "batches": [(IMAGES, LABELS)], "attacks": ("fgsm",), "eps": 0.1}),
    "distill": (kdiga.distill, {"student": net, "teacher": net, "train": PLANE, "validation": PLANE} | SHORT),
    "Distiller": (kdiga.Distiller, {"student": net, "teacher": net, "total_steps": 2}),
    "a call of Distiller": (kdiga.Distiller.output, {"images": IMAGES, "labels": LABELS}),
    "load_model": (kdiga.load_model, {"name_or_path": "cnn-4"}),
    "save_model": (kdiga.save_model, {"model": net, "path": "weights.safetensors"}),
    "load_data": (kdiga.load_data, {"name": "digits"}),
    "ThreatModel": (kdiga.ThreatModel, {}),
    "PGD": (kdiga.PGD, {"threat": kdiga.ThreatModel()}),
    "FiniteDifference": (kdiga.FiniteDifference, {}),
    "Exact": (kdiga.Exact, {}),
    "ImageSet": (kdiga.ImageSet, {"images": IMAGES, "labels": LABELS, "classes": ["a", "b"]}),
    "NamedOutput": (kdiga.NamedOutput, {"model": net(), "output": 0}),
    "TrainingSettings": (kdiga.TrainingSettings, {}),
}
CALLBACKS = ("on_step", "on_epoch", "on_choice", "on_warning", "progress")  # a function of the caller fails as it does


@pytest.mark.filterwarnings("ignore::kdiga.errors.KdigaWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_wrong_argument_is_refused_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, good = FUNCTIONS[name]
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        for kind, wrong in WRONG.items():
            if parameter.name in CALLBACKS and callable(wrong):
                continue
            arguments = {key: value() if value is net else value for key, value in good.items()} | {
                parameter.name: wrong
            }
            try:
                if name == "a call of Distiller":
                    function(kdiga.Distiller(net(), net(), total_steps=2), **arguments)
                else:
                    function(**arguments)
            except kdiga.KdigaError as error:
                message = str(error)
                if "\n" in message or len(message) > LONGEST:
                    found.append(f"{parameter.name} {kind}: {len(message)} characters: {message}")
            except Exception as error:
                found.append(f"{parameter.name} {kind}: {type(error).__name__}: {error!s:.150}")
    assert not found, "\n".join(found)
