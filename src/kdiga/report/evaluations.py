"""Attacked models and suitable teachers, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiga.report.headers import command_of, file_identity, findings_of, ground_of, origin_of
from kdiga.report.records import Accuracy, Curve, Evaluation, Ground, Origin, Suitability
from kdiga.report.validation import (
    DamagedError,
    around,
    bounds,
    fields,
    numbers,
    outcomes,
    proportion,
    record,
    shares,
    text,
    whole_number,
)
from kdiga.statistics import clopper_pearson


def read_evaluation(path: Path, content: Mapping[str, Any]) -> Evaluation:
    """Return what ``evaluation.json`` holds, or the older ``best-test.json`` and ``last-test.json`` of a run.

    Raises:
        DamagedError: if accuracies are missing, out of range or not those of the images' own record.
    """
    ground = ground_of(content)
    origin = origin_of(content, path, _again(content))
    attacks = record(content.get("accuracy"), "accuracy")
    if not attacks:
        raise DamagedError("it holds no accuracy")
    return Evaluation(
        identity=file_identity(content, path),
        ground=ground,
        origin=origin,
        accuracy={name: _accuracy(content, name, ground, origin) for name in attacks},
        sweep=_sweep(content.get("sweep")),
        findings=findings_of(content),
        stages={
            stage: proportion(value, stage)
            for stage, value in fields(fields(content.get("stages")).get("autoattack")).items()
        },
        notes={name: [text(note) for note in found] for name, found in fields(content.get("notes")).items()},
        version=text(content.get("version")),
    )


def read_suitability(path: Path, content: Mapping[str, Any]) -> Suitability:
    """Return what ``suitability.json`` holds.

    Raises:
        DamagedError: if it has no verdict.
    """
    verdict = text(content.get("sentence")) or text(content.get("verdict"))
    if not verdict:
        raise DamagedError("it holds no verdict")
    return Suitability(
        file_identity(content, path), ground_of(content), origin_of(content, path), verdict, findings_of(content)
    )


def _accuracy(content: Mapping[str, Any], name: str, ground: Ground, origin: Origin) -> Accuracy:
    value = proportion(content["accuracy"][name], f"accuracy under {name}")
    kept = fields(content.get("correct")).get(name)
    correct = None if kept is None else outcomes(kept, "correct")
    if correct == ():
        raise DamagedError(f"correct under {name} is of no image")
    images = len(correct) if correct else whole_number(content.get("examples")) or 0
    if not images:
        raise DamagedError(f"it does not say on how many images accuracy under {name} was measured")
    if correct and abs(sum(correct) / images - value) > 1e-6:
        raise DamagedError(
            f"accuracy under {name} is {value:g}, yet {sum(correct)} of the {images} images are marked right"
        )
    given = fields(content.get("interval_95")).get(name)
    interval = clopper_pearson(round(value * images), images) if given is None else around(value, given, "interval_95")
    return Accuracy(value, interval, images, correct, ground, origin)


def _sweep(content: Any) -> Curve | None:
    if content is None:
        return None
    sweep = record(content, "sweep")
    at, accuracy = numbers(sweep.get("eps"), "eps of the sweep"), shares(sweep.get("accuracy"), "accuracy of the sweep")
    intervals = [bounds(pair, "interval_95 of the sweep") for pair in sweep.get("interval_95") or []]
    if not at or len(at) != len(accuracy) or len(intervals) not in (0, len(at)):
        raise DamagedError("the sweep has not one accuracy and one interval an eps")
    return Curve(at, accuracy, tuple(intervals), text(sweep.get("attack"), "an attack"))


def _again(content: Mapping[str, Any]) -> str:
    threat = fields(content.get("threat"))
    sizes = {len(found) for found in fields(content.get("correct")).values() if isinstance(found, list)}
    return command_of(
        "evaluate",
        text(content.get("model"), "MODEL"),
        "--which",
        text(content.get("which"), "best"),
        "--norm",
        threat.get("norm"),
        "--eps",
        threat.get("eps"),
        "--attacks",
        ",".join(fields(content.get("accuracy"))),
        "--examples",
        max(sizes, default=content.get("examples") or 0),
        "--seed",
        content.get("seed", 0),
    )
