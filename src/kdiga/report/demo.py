"""The demo's ``results.json``, as the evaluations and the explanation that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiga.report.checking import bounds, fields, listing, number, numbers, record, share, shares, text, whole
from kdiga.report.explained import Explained, Explanation, Gallery, Seen
from kdiga.report.explanations import read_arrays
from kdiga.report.headers import run_folder
from kdiga.report.records import Accuracy, Curve, Evaluation, Ground, Identity, Origin

ATTACKS = ("clean", "pgd-40", "autoattack")


def read_demo(path: Path, content: Mapping[str, Any]) -> tuple[list[Evaluation], Explanation]:
    """Return one evaluation a model, and an explanation of gradients and their cosines alone.

    Raises:
        DamagedError: if models, accuracies or pictures are missing.
    """
    threat = record(content.get("threat_model"), "threat_model")
    ground = Ground(text(content.get("data")), text(threat.get("norm")), number(threat.get("eps"), "eps"))
    about = {key: content[key] for key in ("date", "versions", "hardware") if key in content}
    origin = Origin(path, text(content.get("command")), True, about, whole(content.get("seed")))
    images = whole(content.get("test_images")) or 0
    entries = [record(entry, "a model") for entry in listing(content.get("models"), "models")]
    curves = record(content.get("curves"), "curves")
    evaluations = [_evaluation(entry, curves, ground, origin, images) for entry in entries]
    arrays = read_arrays(path.with_name(Path(text(content.get("pictures"))).name))
    explained = [
        Explained(
            identity=found.identity,
            teacher=row == 0,
            clean=None,
            robust=None,
            robust_interval=None,
            attack="",
            linearity=None,
            cosine=None if row == 0 else (number(entry["gradient_cosine"], "gradient_cosine"), None),
            distance=None,
            bounds={},
            kept=None,
        )
        for row, (entry, found) in enumerate(zip(entries, evaluations, strict=True))
    ]
    gallery = Gallery(
        arrays["images"], tuple(int(label) for label in arrays["labels"]), (),
        [Seen(arrays[text(entry["name"])]) for entry in entries],
    )  # fmt: skip
    return evaluations, Explanation(ground, origin, explained, (), (), gallery, images)


def _evaluation(
    entry: Mapping[str, Any], curves: Mapping[str, Any], ground: Ground, origin: Origin, images: int
) -> Evaluation:
    name, weights = text(entry.get("name")), Path(text(entry.get("weights")))
    place = origin.path.parent / weights
    identity = Identity(
        model=str(place.parent), which=weights.stem, architecture=text(entry.get("architecture")),
        parameters=whole(entry.get("parameters")), folder=run_folder(place), name=name,
    )  # fmt: skip
    accuracy = {
        attack: Accuracy(
            share(entry[attack], attack),
            bounds(fields(entry["interval_95"])[attack], attack),
            images,
            None,
            ground,
            origin,
        )
        for attack in ATTACKS
        if attack in entry
    }
    kept = shares(fields(curves.get("accuracy"))[name], "accuracy of the curve")
    sweep = Curve(numbers(curves.get("eps"), "eps of the curve"), kept, (), text(curves.get("attack")))
    notes = [text(note) for note in entry.get("notes") or []]
    return Evaluation(
        identity, ground, origin, accuracy, sweep, notes={"autoattack": notes} if notes else {}, version="standard"
    )
