"""Small result folders, as the commands write them; the numbers are made up, the same each time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdiga.statistics import clopper_pearson

CLASSES = ("shirt", "trouser", "bag", "sneaker")
IMAGES = 200
# name: (method, architecture, parameters, minutes, clean, pgd-20, autoattack, cosine with the teacher)
MODELS: dict[str, tuple[str, str, int, float, float, float, float, float | None]] = {
    "teacher": ("pgd-at", "cnn-16-relu", 54666, 4.25, 0.86, 0.73, 0.70, None),
    "kd": ("kd", "cnn-4-silu", 9354, 0.17, 0.80, 0.32, 0.28, 0.11),
    "kdiga": ("kdiga", "cnn-4-silu", 9354, 0.45, 0.81, 0.50, 0.44, 0.47),
    "tangent": ("tangent", "cnn-4-silu", 9354, 0.46, 0.80, 0.60, 0.56, 0.63),
}
STUDENTS = [name for name in MODELS if name != "teacher"]
THREAT = {"norm": "linf", "eps": 0.1}
PROVENANCE = {
    "date": "2026-11-25T02:25:03+00:00",
    "versions": {"python": "3.11.7", "kdiga": "0.1.0", "torch": "2.14.1", "pyautoattack": "0.2.0"},
    "hardware": {"processor": "AMD EPYC", "cores": 2, "threads": 1, "accelerator": None},
}


def header(kind: str, command: str, *, eps: float = 0.1, images: int = IMAGES) -> dict[str, Any]:
    """Return the fields that every result file begins with."""
    return {
        "kind": kind,
        "command": command,
        "data": "fashion-mnist",
        "data_fingerprint": f"images-{images}",
        "examples": images,
        "threat": {**THREAT, "eps": eps},
        "seed": 0,
        "provenance": PROVENANCE,
    }


def about(name: str) -> dict[str, Any]:
    """Return what a file says of a model."""
    _, architecture, parameters, *_ = MODELS[name]
    return {
        "model": f"runs/{name}",
        "which": "best",
        "architecture": architecture,
        "parameters": parameters,
        "fingerprint": f"weights-of-{name}",
    }


def right(name: str, share: float, images: int = IMAGES) -> list[int]:
    """Return which images are right: hard images are hard for all models, as they are in truth."""
    rng = np.random.default_rng(sum(map(ord, name)))
    hardness = np.random.default_rng(0).random(images) + 0.25 * rng.random(images)
    order = np.argsort(hardness)
    correct = np.zeros(images, int)
    correct[order[: round(share * images)]] = 1
    return correct.tolist()


def findings(name: str) -> list[dict[str, Any]]:
    """Return a few checks; kd's logits are saturated."""
    saturated = name == "kd"
    return [
        {"name": "more-steps", "verdict": "passed", "message": "Accuracy falls from 1 to 100 steps.", "evidence": {}},
        {"name": "large-eps", "verdict": "passed", "message": "At eps 1 no image is right.", "evidence": {}},
        {
            "name": "saturated-logits",
            "verdict": "warning" if saturated else "passed",
            "evidence": {},
            "message": "31 % of losses are exactly 0 in float32." if saturated else "No loss is exactly 0.",
        },
    ]


def evaluation(name: str, *, eps: float = 0.1, images: int = IMAGES, sweep: bool = True) -> dict[str, Any]:
    """Return what ``evaluation.json`` holds."""
    *_, clean, pgd, autoattack, _ = MODELS[name]
    damp = eps / 0.1
    shares = {"clean": clean, "pgd-20": clean - (clean - pgd) * damp, "autoattack": clean - (clean - autoattack) * damp}
    correct = {attack: right(name, share, images) for attack, share in shares.items()}
    accuracy = {attack: sum(found) / images for attack, found in correct.items()}
    content = header("evaluation", f"kdiga evaluate runs/{name} --examples {images} --sweep", eps=eps, images=images)
    content |= about(name) | {
        "version": "standard",
        "accuracy": accuracy,
        "correct": correct,
        "notes": {},
        "findings": findings(name),
        "interval_95": {attack: list(clopper_pearson(sum(found), images)) for attack, found in correct.items()},
        "seconds": dict.fromkeys(shares, 1.5),
        "stages": {"autoattack": {"apgd-ce": accuracy["pgd-20"]}},
    }
    if sweep:
        at = [0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3]
        curve = [round(images * clean / (1 + (one / 0.1) ** 2 * (clean / pgd - 1))) for one in at[:-1]] + [2]
        content["sweep"] = {
            "attack": "pgd-20",
            "eps": at,
            "accuracy": [count / images for count in curve],
            "interval_95": [list(clopper_pearson(count, images)) for count in curve],
        }
    return content


def curve_of(radius: list[float | None], images: int, top: float) -> dict[str, list[float]]:
    """Return a certified curve."""
    at = [round(top * step / 20, 6) for step in range(21)]
    return {
        "radius": at,
        "accuracy": [sum(one is not None and one > 0 and one >= place for one in radius) / images for place in at],
    }


def certificate(name: str, *, teacher: bool = True) -> dict[str, Any]:
    """Return what ``certificate.json`` holds: all three kinds, held against the teacher."""
    images = 100
    content = header("certificate", f"kdiga certify runs/{name} --against runs/teacher", images=images) | about(name)
    scale = {"kd": 0.03, "kdiga": 0.05, "tangent": 0.07, "teacher": 0.09}

    def radii(which: str, stretch: float) -> list[float | None]:
        rng = np.random.default_rng(len(which))
        clean = MODELS[which][4]
        return [
            float(min(value, 0.1 * stretch)) if row < clean * images else 0.0
            for row, value in enumerate(rng.weibull(1.5, images) * scale[which] * stretch)
        ]

    own = {kind: radii(name, stretch) for kind, stretch in (("clever", 1.0), ("smoothing", 8.0), ("interval", 0.2))}
    wrong = sum(radius == 0 for radius in own["clever"])
    content["clever"] = {
        "norm": "linf",
        "max_radius": 0.1,
        "batches": 50,
        "batch_size": 256,
        "radius": [*own["clever"][:-1], None],
        "failed": 1,
        "wrong": wrong,
        "goodness": {"median_p": 0.6, "rejected_share": 0.05},
        "curve": curve_of(own["clever"], images, 0.1),
    }
    content["smoothing"] = {
        "norm": "l2",
        "sigma": 0.25,
        "samples": 1000,
        "selection_samples": 100,
        "alpha": 0.001,
        "abstained": 4,
        "radius": own["smoothing"],
        "wrong": wrong,
        "curve": curve_of(own["smoothing"], images, 0.8),
    }
    content["interval"] = {
        "norm": "linf",
        "radius": own["interval"],
        "accuracy": 0.0,
        "interval_95": [0.0, 0.036],
        "curve": curve_of(own["interval"], images, 0.02),
    }
    if teacher:
        content["against"] = {"teacher": about("teacher")}
        for kind, stretch, top in (("clever", 1.0, 0.1), ("smoothing", 8.0, 0.8), ("interval", 0.2, 0.02)):
            theirs = radii("teacher", stretch)
            share = sum((a or 0) >= (b or 0) for a, b in zip(own[kind], theirs, strict=True)) / images
            content["against"][kind] = {
                "teacher_radius": theirs,
                "student_radius": own[kind],
                "share_at_least_teacher": share,
                "share_interval_95": list(clopper_pearson(round(share * images), images)),
                "teacher_curve": curve_of(theirs, images, top),
                "student_curve": curve_of(own[kind], images, top),
            }
        content["against"]["clever"] |= {
            "guaranteed_radius": [0.0, None, 0.01, 0.02, 0.04],
            "alignment": {"median_rho_over_lipschitz": 1.27, "median_guaranteed_over_measured": 0.41},
        }
    return content


def explanation(students: list[str]) -> dict[str, Any]:
    """Return what ``explanation.json`` holds."""
    content = header("explanation", f"kdiga explain runs/teacher {' '.join(f'runs/{name}' for name in students)}")
    models: list[dict[str, Any]] = []
    for name in ["teacher", *students]:
        *_, clean, _, robust, cosine = MODELS[name]
        gamma = 0.3 if cosine is None else 1.4 - 1.5 * cosine
        entry = about(name) | {
            "role": "teacher" if cosine is None else "student",
            "name": name,
            "clean": clean,
            "robust": {
                "attack": "autoattack",
                "accuracy": robust,
                "interval_95": list(clopper_pearson(round(robust * IMAGES), IMAGES)),
            },
            "linearity": {"mean": gamma, "interval_95": [gamma * 0.9, gamma * 1.1], "values": []},
            "gradient": {"norm": 4.0},
            "bounds": {},
            "robustness_kept": robust / 0.70,
        }
        if cosine is not None:
            distance = 6 * (1 - cosine)
            entry["gradient"] |= {
                "cosine": cosine,
                "cosine_interval_95": [cosine - 0.03, cosine + 0.03],
                "distance": distance,
                "cosine_values": [],
                "distance_values": [],
            }
            student = {"linearity": gamma, "teacher_gradient": 0.4, "gradient_distance": distance / 10}
            transfer = {
                "clean_gap": 0.15,
                "gradient_distance": distance / 10,
                "student_linearity": gamma,
                "teacher_linearity": 0.3,
            }
            for kind, pieces in (("student", student), ("transfer", transfer)):
                mean = math.fsum(pieces.values())
                entry["bounds"][kind] = {"mean": mean, "pieces": pieces, "measured": 0.6 * mean, "tightness": 0.6}
        models.append(entry)
    return content | {
        "models": models,
        "ranking": [{"bound": "student", "spearman": 0.8, "interval_95": [0.2, 1.0], "models": len(students)}],
        "sentences": [],
        "reasons": ["tangent keeps 80 % of the teacher's robust accuracy; its gradients point along the teacher's."],
        "pictures": "explanation.npz",
    }


def pictures(models: int, images: int = 4) -> dict[str, np.ndarray]:
    """Return what ``explanation.npz`` holds."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:14, 0:14] / 13
    clean = np.stack([(np.abs(rows - 0.5) + np.abs(columns - 0.5) < 0.2 + 0.1 * one) for one in range(images)])[:, None]
    clean = clean.astype(np.float32) * 0.8
    labels = np.arange(images) % len(CLASSES)
    arrays: dict[str, np.ndarray] = {"images": clean, "labels": labels, "classes": np.array(CLASSES)}
    for row in range(models):
        gradient = clean - clean.mean() + (0.05 + 0.4 * (row > 0)) * rng.normal(size=clean.shape)
        arrays[f"gradient_{row}"] = gradient.astype(np.float32)
        arrays[f"adversarial_{row}"] = np.clip(clean + 0.1 * np.sign(gradient), 0, 1).astype(np.float32)
        arrays[f"prediction_{row}"] = labels
        arrays[f"adversarial_prediction_{row}"] = (labels + (np.arange(images) < row)) % len(CLASSES)
    return arrays


def write_run(folder: Path, name: str, teacher: str | None = "runs/teacher", *, epochs: int = 6) -> None:
    """Write a run's recipe, journal and result."""
    method, architecture, parameters, minutes, *_ = MODELS[name]
    model, activation = architecture.rsplit("-", 1)
    recipe = {
        "data": {"name": "fashion-mnist"},
        "student": {"name": model, "activation": activation},
        "method": {"name": method},
        "teacher": None if teacher is None else {"name": teacher},
        "threat": THREAT,
        "training": {"epochs": epochs, "seed": 0},
        "second_teacher": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    clean, robust = MODELS[name][4:6]
    terms = ["adversarial"] if teacher is None else ["label", "teacher"] + ["gradient"] * (method != "kd")
    lines = [
        {
            "epoch": epoch,
            "lr": 1e-3,
            "clean": clean - 0.2 / (epoch + 1),
            "robust": robust - 0.3 / (epoch + 1),
            "terms": {term: (row + 1) / (epoch + 1) for row, term in enumerate(terms)},
            "weights": {},
            "seconds": 3.0,
        }
        for epoch in range(epochs)
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "method": method,
        "seed": 0,
        "epochs": epochs,
        "minutes": minutes,
        "provenance": PROVENANCE,
        "passes": {
            "student_forwards": 560 * epochs,
            "student_backwards": 560,
            "teacher_forwards": 560,
            "teacher_backwards": 0,
        },
        "validation": {"best": {"epoch": epochs - 1}},
        "parameters": {"student": parameters, "teacher": None},
        "threat": THREAT,
        "data": {"name": "fashion-mnist"},
    }
    (folder / "result.json").write_text(json.dumps(result))


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write a result file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_all(folder: Path) -> Path:
    """Write a teacher with three students, evaluated, certified and explained, and a suitability; return the folder."""
    for name in MODELS:
        run = folder / name
        write_run(run, name, None if name == "teacher" else "runs/teacher")
        write_json(run / "evaluation/best-linf-0.1/evaluation.json", evaluation(name))
        (run / "evaluation/best-linf-0.1/portions").mkdir()
        (run / "evaluation/best-linf-0.1/portions/evaluation.json").write_text("no result but a part of one")
        write_json(run / "certification/best-linf-0.1/certificate.json", certificate(name, teacher=name != "teacher"))
    write_json(folder / "explain/explanation.json", explanation(STUDENTS))
    np.savez(folder / "explain/explanation.npz", **pictures(len(MODELS)))  # pyright: ignore[reportArgumentType]
    write_json(
        folder / "teacher/suitability/best-linf-0.1/suitability.json",
        header("suitability", "kdiga suitable runs/teacher")
        | about("teacher")
        | {
            "verdict": "suitable",
            "measures": {},
            "findings": [
                {
                    "name": "preprocessing",
                    "verdict": "passed",
                    "message": "No other preprocessing is better.",
                    "evidence": {},
                },
            ],
        },
    )
    return folder


def write_study(folder: Path, seeds: int = 2) -> Path:
    """Write a study as older versions did: a teacher, three methods, two seeds; return its folder."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for name in MODELS:
        runs = ["teachers/teacher"] if name == "teacher" else [f"{name}/seed-{seed}" for seed in range(seeds)]
        cells[name] = []
        for seed, place in enumerate(runs):
            write_run(folder / place, name, None if name == "teacher" else "runs/old/teachers/teacher")
            content = evaluation(name, sweep=False) | {"model": f"runs/old/{place}"}
            for key in ("kind", "command", "data_fingerprint", "fingerprint", "architecture", "findings", "stages"):
                del content[key]
            for which in ("best", "last"):
                write_json(folder / place / f"{which}-test.json", content | {"which": which})
            _, _, parameters, minutes, *_ = MODELS[name]
            cells[name].append(
                {
                    "folder": place,
                    "seed": seed,
                    "status": "done",
                    "error": None,
                    "epochs": 6,
                    "best_epoch": 5,
                    "minutes": minutes,
                    "passes": dict.fromkeys(
                        (f"{role}_{way}" for role in ("student", "teacher") for way in ("forwards", "backwards")), 560
                    ),
                    "parameters": parameters,
                    "validation": {},
                    "notes": {},
                    "attack_minutes": 1.0,
                    "accuracy": dict.fromkeys(("best", "last"), content["accuracy"]),
                    "interval_95": {},
                    "date": PROVENANCE["date"],
                    "hardware": PROVENANCE["hardware"],
                }
            )
    entries = {
        name: {"label": name, "method": MODELS[name][0], "recipe": {}, "runs": runs} for name, runs in cells.items()
    }
    study = {
        "title": "study-old",
        "command": "kdiga study old.yaml",
        "threat": THREAT,
        "which": ["best", "last"],
        "data": {"name": "fashion-mnist", "training_images": 800},
        "attacks": dict.fromkeys(("clean", "pgd-20", "autoattack"), IMAGES),
        "seeds": list(range(seeds)),
        "done": 7,
        "total": 7,
        "teachers": [entries.pop("teacher")],
        "methods": [entry | {"tuning": None} for entry in entries.values()],
    }
    write_json(folder / "study.json", study)
    return folder
