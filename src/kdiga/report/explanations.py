"""Why robustness transferred, from ``explanation.json`` and the pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdiga.io.safe_npz import load_arrays
from kdiga.report.explained import Explained, Explanation, Gallery, Seen, Split
from kdiga.report.headers import file_identity, findings_of, ground_of, origin_of
from kdiga.report.validation import (
    DamagedError,
    around,
    bounds,
    fields,
    listing,
    number,
    outcomes,
    proportion,
    record,
    text,
    whole_number,
)

PICTURED = 12  # more images than anybody looks at make a heavy page


def read_explanation(path: Path, content: Mapping[str, Any]) -> Explanation:
    """Return what ``explanation.json`` holds.

    Raises:
        DamagedError: if it has no models, a bound is none, or the pictures do not fit.
    """
    models = [_explained(record(entry, "a model")) for entry in listing(content.get("models"), "models")]
    if not models:
        raise DamagedError("it holds no model")
    name = text(content.get("pictures"))
    return Explanation(
        ground=ground_of(content),
        origin=origin_of(content, path),
        models=models,
        sentences=[text(sentence) for sentence in content.get("reasons") or []],
        ranking=[_ranked(record(entry, "ranking")) for entry in content.get("ranking") or []],
        gallery=read_gallery(path.with_name(Path(name).name), len(models)) if name else None,
        images=whole_number(content.get("examples")) or 0,
        findings=findings_of(content),
    )


def _ranked(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("spearman", "p_value"):
        if entry.get(name) is not None:
            number(entry[name], name)
    if entry.get("interval_95") is not None:
        bounds(entry["interval_95"], "interval_95 of a ranking")
    return entry


def read_gallery(path: Path, models: int) -> Gallery:
    """Return the pictures of an explanation.

    Args:
        path: of the .npz.
        models: how many models it should hold.

    Raises:
        DamagedError: if it cannot be read, or an array has another shape than the images.
    """
    arrays = read_arrays(path)
    images, labels, classes = arrays.get("images"), arrays.get("labels"), arrays.get("classes", np.array([]))
    if (
        images is None
        or labels is None
        or images.ndim != 4
        or labels.shape != images.shape[:1]
        or images.shape[1] not in (1, 3)
        or not _numbers(images)
    ):
        raise DamagedError(f"{path.name} holds no images (n, 1 or 3, height, width) with a label each")
    if classes.ndim != 1:
        raise DamagedError(f"{path.name} has classes of shape {classes.shape}, not a name each")
    return Gallery(
        images=images[:PICTURED],
        labels=tuple(int(label) for label in labels[:PICTURED]),
        classes=tuple(str(name) for name in classes),
        seen=[_seen(arrays, row, images.shape, path.name) for row in range(models)],
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz, which may hold nothing but numbers and text.

    Raises:
        DamagedError: if it cannot be read.
    """
    try:
        return load_arrays(path)
    except ValueError as error:
        raise DamagedError(f"its pictures {path.name} cannot be read ({error})") from None


def _numbers(found: np.ndarray) -> bool:
    return found.dtype.kind in "buif" and bool(np.isfinite(found).all())


def _seen(arrays: Mapping[str, np.ndarray], row: int, shape: tuple[int, ...], name: str) -> Seen:
    gradient, adversarial = arrays.get(f"gradient_{row}"), arrays.get(f"adversarial_{row}")
    for found in (gradient, adversarial):
        if found is None or found.shape != shape or not _numbers(found):
            raise DamagedError(f"{name} has no gradient and adversarial image of model {row} for each image")
    assert gradient is not None
    assert adversarial is not None
    clean, fooled = (arrays.get(f"{kind}_{row}") for kind in ("prediction", "adversarial_prediction"))
    return Seen(gradient[:PICTURED], adversarial[:PICTURED], _classes(clean, shape[0]), _classes(fooled, shape[0]))


def _classes(found: np.ndarray | None, images: int) -> tuple[int, ...] | None:
    if found is not None and found.shape != (images,):
        raise DamagedError("its pictures have not one prediction an image")
    return None if found is None else tuple(int(value) for value in found[:PICTURED])


def _explained(content: Mapping[str, Any]) -> Explained:
    robust, gradient = fields(content.get("robust")), fields(content.get("gradient"))
    clean, interval = content.get("clean"), robust.get("interval_95")
    clean = fields(clean).get("accuracy") if isinstance(clean, Mapping) else clean
    return Explained(
        identity=file_identity(content),
        teacher=content.get("role") == "teacher",
        clean=None if clean is None else proportion(clean, "clean"),
        robust=proportion(robust["accuracy"], "robust accuracy") if robust else None,
        robust_interval=None
        if interval is None
        else around(number(robust["accuracy"], "robust"), interval, "interval_95"),
        attack=text(robust.get("attack")),
        linearity=_measure(fields(content.get("linearity")), "mean", "interval_95"),
        cosine=_measure(gradient, "cosine", "cosine_interval_95"),
        distance=None if gradient.get("distance") is None else number(gradient["distance"], "distance"),
        bounds={
            name: _split(record(found, name), name) for name, found in fields(content.get("bounds")).items() if found
        },
        kept=None if content.get("robustness_kept") is None else number(content["robustness_kept"], "robustness_kept"),
        correct={attack: outcomes(found, "correct") for attack, found in fields(content.get("correct")).items()},
    )


def _measure(content: Mapping[str, Any], name: str, interval: str) -> tuple[float, tuple[float, float] | None] | None:
    if content.get(name) is None:
        return None
    ends = content.get(interval)
    return number(content[name], name), None if ends is None else bounds(ends, interval)


def _split(content: Mapping[str, Any], name: str) -> Split:
    pieces = {key: number(value, key) for key, value in record(content.get("pieces"), f"pieces of {name}").items()}
    tightness = content.get("tightness")
    return Split(
        number(content.get("mean"), f"mean of {name}"),
        pieces,
        number(content.get("measured"), f"measured of {name}"),
        None if tightness is None else number(tightness, "tightness"),
    )
