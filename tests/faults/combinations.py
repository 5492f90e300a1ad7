"""Every command that reuses something, and the ingredients that change under it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.reusing import (
    Changes,
    cache,
    certify,
    claims,
    compare,
    curve,
    evaluate,
    explain,
    export,
    report,
    study,
    suitable,
    train,
    train_from_cache,
    tune,
)

RECIPE_SETTINGS: dict[str, Changes] = {
    key: {f"{section}__{key}": value}
    for section, key, value in [
        ("method", "temperature", 2.0),
        ("threat", "eps", 0.2),
        ("threat", "norm", "l2"),
        ("student", "activation", "relu"),
        ("training", "seed", 7),
        ("training", "epochs", 3),
        ("training", "lr", 1e-2),
        ("training", "batch_size", 18),
        ("training", "augment", "none"),
        ("training", "validation_share", 0.3),
        ("training", "weight_decay", 0.01),
        ("training", "schedule", "constant"),
        ("training", "ema", 0.5),
        ("training", "optimizer", "sgd"),
        ("training", "select", "clean"),
        ("data", "train_examples", 30),
    ]
}
RECIPE_SETTINGS |= {
    "method": {"method__name": "kdiga"},
    "student": {"student__name": "cnn-8"},
    "teacher's path": {"teacher__name": "other.safetensors"},
}


@dataclass(frozen=True)
class Command:
    """A command that reuses something.

    Args:
        name: Its name in the table.
        run: Runs it with changes, and returns its result.
        results: Paths of its earlier results, which a new folder does not have.
        settings: Changes by ingredient; the result may have more entries for one whose name begins with "+".
        without: Ingredients of files that do not concern it.
    """

    name: str
    run: Callable[[Changes], dict[str, Any]]
    results: Sequence[str] = ()
    settings: Mapping[str, Changes] = field(default_factory=dict)
    without: Sequence[str] = ()


JUDGED: dict[str, Changes] = {
    "eps": {"eps": "0.2"},
    "norm": {"norm": "l2"},
    "seed": {"seed": 3},
    "which": {"which": "last"},
}
FEWER = {"examples": {"examples": 3}}
OTHERS = ("other student's weights",)
STUDENTS = ("run trained again", "best weights", "last weights", "run folder", *OTHERS)
TEACHERS = ("teacher weights", "teacher dtype", "teacher architecture")
SPECIFIED = {name: one for name, one in RECIPE_SETTINGS.items() if name != "select"}
COMMANDS = {
    one.name: one
    for one in [
        Command(
            "train, finished",
            lambda changes: train("runs/a", resume=True, **changes),
            ["runs/a"],
            RECIPE_SETTINGS,
            ("run trained again", "run folder", *OTHERS),
        ),
        Command(
            "train, stopped",
            lambda changes: train("stopped", resume=True, **changes),
            ["stopped"],
            RECIPE_SETTINGS,
            STUDENTS,
        ),
        Command(
            "cache",
            cache,
            ["cache"],
            RECIPE_SETTINGS | {"dtype": {"cache__dtype": "fp16"}, "views": {"cache__views": 3}},
            STUDENTS,
        ),
        Command("train from cache", train_from_cache, ["cache"], RECIPE_SETTINGS, STUDENTS),
        Command(
            "evaluate",
            evaluate,
            ["runs/a/evaluation", "runs/moved/evaluation"],
            JUDGED
            | FEWER
            | {
                "+attacks": {"attacks": ("pgd-3",)},
                "+restarts": {"attacks": ("pgd-2x2",)},
                "+sweep": {"sweep": "0.05"},
                "batch size": {"batch_size": 7},
                "one folder, eps": {"out": Path("runs/a/evaluation/best-linf-0.1-20"), "eps": "0.3"},
                "one folder, seed": {"out": Path("runs/a/evaluation/best-linf-0.1-20"), "seed": 3},
                "one folder, model": {"out": Path("runs/a/evaluation/best-linf-0.1-20"), "run": "runs/b"},
                "one folder, version": {"out": Path("runs/a/evaluation/best-linf-0.1-20"), "version": "rand"},
                "+checks": {"checks": True},
            },
        ),
        Command(
            "certify",
            certify,
            ["runs/a/certification", "runs/moved/certification"],
            JUDGED
            | FEWER
            | {
                "sigma": {"sigma": 0.5},
                "samples": {"samples": 30},
                "alpha": {"alpha": 0.2},
                "batches": {"clever_batches": 6},
                "largest radius": {"max_radius": "0.3"},
                "teacher's path": {"against": "other.safetensors"},
                "+method": {"method": ("clever",)},
            },
        ),
        Command(
            "explain",
            explain,
            ["explain", "runs/a/evaluation", "runs/b/evaluation"],
            JUDGED
            | FEWER
            | {
                "attack": {"attack": "pgd-3"},
                "restarts": {"restarts": 2},
                "students": {"students": ["runs/b"]},
                "teacher's path": {"teacher": "other.safetensors"},
            },
        ),
        Command(
            "suitable",
            suitable,
            ["runs/a/suitability", "runs/moved/suitability"],
            JUDGED | FEWER | {"restarts": {"restarts": 2}},
            TEACHERS,
        ),
        Command(
            "export",
            export,
            ["runs/a/export", "runs/moved/export"],
            JUDGED
            | FEWER
            | {
                "transfer": {"transfer": ("cw-2",)},
                "queries": {"queries": 5},
                "score examples": {"score_examples": 3},
                "+formats": {"to": ("hf",)},
            },
            TEACHERS,
        ),
        Command(
            "study",
            study,
            ["study"],
            SPECIFIED
            | {
                "attacks": {"evaluate": {"attacks": ["clean", "pgd-3"]}},
                "images": {"evaluate": {"examples": 8}},
                "attack seed": {"evaluate": {"seed": 3}},
                "own teacher's method": {"teachers": {"method": {"name": "pgd-at", "steps": 1}}},
                "own teacher": {"teachers": {"student": "cnn-8"}},
                "weights of a cell, attacked again": {"without test": True},
            },
            (*STUDENTS, *TEACHERS),
        ),
        Command(
            "tune", tune, ["tune"], SPECIFIED | {"epochs of a trial": {"tuned": 2}, "trials": {"trials": 3}}, STUDENTS
        ),
        Command(
            "curve",
            curve,
            ["curve"],
            {
                name: one
                for name, one in SPECIFIED.items()
                if name not in ("student", "activation", "temperature", "method")
            }
            | {
                "student's path": {"student__path": "teacher.safetensors"},
                "attack seed": {"seed": 3},
                "values": {"over": "method.temperature=3"},
            },
            STUDENTS,
        ),
        Command(
            "claims",
            claims,
            ["claims", "records"],
            {name: one for name, one in SPECIFIED.items() if name in ("eps", "norm", "lr", "temperature", "seed")}
            | {
                "attack seed": {"evaluate": {"seed": 3}},
                "images of certificates": {"certify": {"examples": 2}},
                "images of explanations": {"explain": {"examples": 3}},
            },
            (*STUDENTS, *TEACHERS),
        ),
        Command(
            "compare",
            compare,
            ["first", "second"],
            {name: JUDGED[name] for name in ("eps", "norm", "seed")} | {"version of AutoAttack": {"version": "plus"}},
            ("best weights", "last weights", *OTHERS, *TEACHERS),
        ),
        Command("report", report, [], {name: JUDGED[name] for name in ("eps", "norm", "which")}, TEACHERS),
    ]
}
