"""Commands that reuse something, each as a function of what is changed, on a world of tiny images and models."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from kdiga.errors import KdigaError
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.curve import load_curve
from kdiga.experiments.experiment import Experiment
from kdiga.experiments.sections import EvaluateSettings, TuneSettings
from kdiga.experiments.study import load_study
from kdiga.experiments.tune import plan_search
from kdiga.model_state import seeded
from kdiga.models import load_model, save_model
from kdiga.recipes.validate import recipe_from_dict
from kdiga.report.groups import group_models
from kdiga.results.folders import find_results
from kdiga.training.loop import TrainingCallbacks
from kdiga.workflows.cache import fill_cache, plan_cache
from kdiga.workflows.certify import run_certification
from kdiga.workflows.compare import compare as compare_results
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.explain import explain_runs
from kdiga.workflows.export import run_export
from kdiga.workflows.prepare import load_recipe_data, prepare
from kdiga.workflows.requests import (
    CertifyRequest,
    EvaluateRequest,
    ExplainRequest,
    ExportRequest,
    SuitableRequest,
)
from kdiga.workflows.suitable import run_suitable
from kdiga.workflows.train import run_recipe

Changes = Mapping[str, Any]
TRAINING = {
    "epochs": 2,
    "batch_size": 12,
    "lr": 2e-2,
    "validation_steps": 1,
    "validation_share": 0.25,
    "stop_at_chance": False,
    "augment": "crop-flip",
}
RECIPE: dict[str, Any] = {
    "data": {"name": "data", "workers": 0},
    "student": {"name": "cnn-4", "activation": "silu"},
    "teacher": {"name": "teacher.safetensors"},
    "method": {"name": "kd", "temperature": 4.0},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": TRAINING,
}


def save_teacher(path: str, seed: int, dtype: torch.dtype = torch.float32, *, name: str = "cnn-4") -> None:
    """Save a model with the weights of a seed."""
    with seeded(seed):
        save_model(load_model(name, in_channels=3, image_size=8, num_classes=4).to(dtype), path)


def recipe_of(changes: Changes) -> dict[str, Any]:
    """Return the recipe with changes by ``section__key``."""
    sections = {name: dict(section) for name, section in RECIPE.items()}
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        if key == "name" and section == "method":
            sections[section] = {}
        if key:
            sections.setdefault(section, {})[key] = value
    return sections


def train(out: str, *, resume: bool = False, overwrite: bool = False, **changes: Any) -> dict[str, Any]:
    """Train the recipe with changes in a folder, or the changes' own."""
    recipe = recipe_from_dict(recipe_of(changes))
    folder = Path(changes.get("run", out))
    return run_recipe(prepare(recipe), folder, resume=resume, overwrite=overwrite)


class StoppedError(Exception):
    """The end of a process."""


def build_world() -> None:
    """Write images, teachers, two finished runs and one that was stopped after an epoch to the present folder."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for label in range(4):
            folder = Path("data", part, f"c{label}")
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (8, 8, 3)) + 45 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    save_teacher("teacher.safetensors", 3)
    save_teacher("other.safetensors", 4)
    train("runs/a")
    train("runs/b", training__seed=1)

    def stop(record: Any) -> None:
        raise StoppedError

    stopping = TrainingCallbacks(on_epoch=stop)
    with suppress(StoppedError):
        run_recipe(prepare(recipe_from_dict(recipe_of({}))), Path("stopped"), callbacks=stopping)


def cache(changes: Changes) -> dict[str, Any]:
    """Fill a cache of the teacher's signals."""
    plan = plan_cache(prepare(recipe_from_dict(recipe_of({"cache__folder": "cache", **changes}))))
    fill_cache(plan)
    shards = sorted(Path("cache").glob("**/*.safetensors"))
    return plan.store.manifest.wanted() | {"shards": [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]}


def train_from_cache(changes: Changes) -> dict[str, Any]:
    """Train a new run from the signals of the first call."""
    if not Path("cache").exists():
        cache(changes)
    return train("runs/cached", overwrite=True, cache__folder="cache", **changes)


def evaluate(changes: Changes) -> dict[str, Any]:
    """Attack a run."""
    given = {"model": changes.get("run", "runs/a"), "attacks": ("fgsm", "pgd-2")} | _asked(changes)
    return run_evaluation(EvaluateRequest(**given)).content


def certify(changes: Changes) -> dict[str, Any]:
    """Certify a run against its teacher."""
    small = {"clever_batches": 5, "clever_batch_size": 4, "samples": 20, "selection_samples": 5, "alpha": 0.1}
    given = {"method": ("clever", "smoothing"), "examples": 4, "against": "teacher.safetensors"} | small
    return run_certification(
        CertifyRequest(**({"model": changes.get("run", "runs/a")} | given | _asked(changes)))
    ).content


def explain(changes: Changes) -> dict[str, Any]:
    """Explain two runs by their teacher."""
    given = {"examples": 5, "attack": "pgd-2", "restarts": 1, "pictures": 0, "out": Path("explain")}
    students = [changes.get("run", "runs/a"), "runs/b"]
    return explain_runs(
        ExplainRequest(**({"teacher": "teacher.safetensors", "students": students} | given | _asked(changes)))
    ).content


def suitable(changes: Changes) -> dict[str, Any]:
    """Measure a run as a teacher."""
    given = {"teacher": changes.get("run", "runs/a"), "examples": 6, "restarts": 1}
    return run_suitable(SuitableRequest(**(given | _asked(changes)))).content


def export(changes: Changes) -> dict[str, Any]:
    """Export a run."""
    given = {"to": ("safetensors",), "transfer": ("pgd-2",), "queries": 4, "score_examples": 4, "examples": 8}
    content = run_export(ExportRequest(**({"model": changes.get("run", "runs/a")} | given | _asked(changes)))).content
    card = Path(changes.get("run", "runs/a"), "export", changes.get("which", "best"), "model-card.md").read_text()
    return content | {"card": [line for line in card.splitlines() if "accuracy under" in line or "Fingerprint" in line]}


def _asked(changes: Changes) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "run"}


def _made(experiment: Experiment) -> dict[str, Any]:
    """Make an experiment's runs, and return its content; a run that failed is an error."""
    data = load_recipe_data(experiment.run_specs[0].recipe.data)
    board = experiment.open(data, since=time.time())
    content = experiment.run(board, data, on_progress=lambda progress: None)
    for run_spec in board.run_specs:
        if board.state(run_spec) == "failed":
            raise KdigaError(board.error(run_spec))
    return content


EVALUATION: dict[str, Any] = {"attacks": ["clean", "pgd-2"], "examples": 12}


def study(changes: Changes) -> dict[str, Any]:
    """Make a study of one method and one teacher."""
    base = {**recipe_of(changes), "teacher": changes.get("teacher__name", "own")}
    method = base.pop("method")
    base["training"] = {key: value for key, value in base["training"].items() if key != "seed"}
    seeds = [changes.get("training__seed", 0)]
    teachers = {"own": {"student": "cnn-4", "method": "ce", **changes.get("teachers", {})}}
    evaluation = EVALUATION | changes.get("evaluate", {})
    whole = {"base": base, "teachers": teachers, "methods": {"m": method}, "seeds": seeds, "evaluate": evaluation}
    if changes.get("without test"):
        Path("study/m/seed-0/best-test.json").unlink()
        Path("study/m/seed-0/best.safetensors").write_bytes(Path("runs/b/best.safetensors").read_bytes())
    return _made(load_study(_written(whole), Path("study")))


def tune(changes: Changes) -> dict[str, Any]:
    """Search for a method's coefficients by two trials."""
    recipe = recipe_from_dict(recipe_of(changes))
    return _made(plan_search(recipe, Path("tune"), TuneSettings(changes.get("trials", 2), changes.get("tuned", 1))))


def curve(changes: Changes) -> dict[str, Any]:
    """Make a curve of one value from a student that is trained already."""
    recipe = {**recipe_of(changes), "student": {"name": changes.get("student__path", "other.safetensors")}}
    evaluation = EvaluateSettings(("clean", "pgd-2"), 12, which=("best",), seed=changes.get("seed", 0))
    over = changes.get("over", "method.temperature=2")
    return _made(load_curve(_written(recipe), over, out=Path("curve"), evaluation=evaluation))


def claims(changes: Changes) -> dict[str, Any]:
    """Test claims with one teacher and one student."""
    recipe = {key: value for key, value in recipe_of(changes).items() if key in ("data", "threat", "training")}
    recipe["training"] = {"epochs": 1, **{k: v for k, v in recipe["training"].items() if k not in ("seed", "epochs")}}
    recipe |= {
        "teachers": {"robust": {"student": "cnn-4", "method": {"name": "pgd-at", "steps": 1}}},
        "students": {"small": "cnn-4"},
        "methods": {"ce": "ce", "kd": {"name": "kd", "temperature": changes.get("method__temperature", 4.0)}},
        "judged": ["kd"],
        "seeds": [changes.get("training__seed", 0)],
        "evaluate": {"attacks": ["clean", "autoattack"], "examples": 8, "autoattack_examples": 4}
        | changes.get("evaluate", {}),
        "certify": {"examples": 3, "batches": 5, "batch_size": 3, "samples": 10, "selection_samples": 5}
        | changes.get("certify", {}),
        "explain": {"examples": 4, "steps": 1, "restarts": 1} | changes.get("explain", {}),
    }
    return _made(load_claims(_written(recipe), Path("claims"), records=Path("records"), despite_findings=True))


def _written(content: Mapping[str, Any]) -> str:
    Path("given.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    return "given.yaml"


def compare(changes: Changes) -> dict[str, Any]:
    """Evaluate one run again, and compare it with the other's evaluation."""
    evaluate({**changes, "out": Path("first"), "overwrite": True})
    if not Path("second").exists():
        evaluate({**changes, "run": "runs/b", "out": Path("second")})
    return {row.attack: row.to_dict() for row in compare_results("first", "second").attacks}


def report(changes: Changes) -> dict[str, Any]:
    """Evaluate fewer images, and check that every model of the page has the results of its own weights alone."""
    run = Path(changes.get("run", "runs/a"))
    evaluate({"examples": 9, **changes})
    results = find_results([Path("runs")])
    groups, remarks = group_models(results)
    for member in [member for group in groups for member in group.members]:
        prints = {one.fingerprint for one in (*member.evaluations, *member.certificates)}
        assert len(prints) <= 1, f"{member.name} has results of the weights {prints}"
    own = {one.fingerprint for one in results.evaluations if one.path.is_relative_to(run)}
    assert len(own) == 1 or any(one.path.resolve() == run.resolve() for one in remarks), "a difference is not said"
    return {}
