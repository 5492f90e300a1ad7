"""Runs: recipe, journal and result, from a run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.io.safe_json_yaml import parse_json, parse_yaml
from kdiga.report.headers import command_of, ground_of, origin_of
from kdiga.report.records import Epoch, Run
from kdiga.report.validation import DamagedError, fields, number, proportion, record, text, whole_number


def read_run(folder: Path) -> Run:
    """Return a run, finished or not.

    Raises:
        DamagedError: if its recipe cannot be read. A journal's line that cannot be read ends the journal: it is the
            last one of a run that was killed.
    """
    recipe = _recipe(folder / "config.yaml")
    result = _result(folder / "result.json")
    student = fields(recipe.get("student"))
    header = {"data": fields(recipe.get("data")).get("name"), "threat": recipe.get("threat")}
    again = command_of("train", folder / "config.yaml", "--out", "AGAIN")
    validated = fields(fields(result.get("validation")).get("best"))
    return Run(
        folder=folder,
        method=text(fields(recipe.get("method")).get("name"), "unknown"),
        teacher=_named(recipe.get("teacher")),
        second_teacher=_named(recipe.get("second_teacher")),
        architecture="-".join(part for key in ("name", "activation") if (part := text(student.get(key)))),
        ground=ground_of(header),
        epochs=_journal(folder / "journal.jsonl"),
        minutes=_minutes(result),
        passes=_passes(fields(result.get("passes"))),
        parameters=whole_number(fields(result.get("parameters")).get("student")),
        best=whole_number(validated.get("epoch")),
        origin=origin_of(result, folder / "result.json", again),
        recipe=recipe,
    )


def _recipe(path: Path) -> Mapping[str, Any]:
    try:
        return record(parse_yaml(path.read_text())[0], "the recipe")
    except DamagedError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"its recipe cannot be read ({str(error).splitlines()[0]})") from None


def _minutes(result: Mapping[str, Any]) -> float | None:
    minutes = None if result.get("minutes") is None else number(result["minutes"], "minutes")
    if minutes is not None and minutes < 0:
        raise DamagedError(f"its training took {minutes:g} minutes")
    return minutes


def _named(teacher: Any) -> str | None:
    return text(teacher) or text(fields(teacher).get("name")) or None


def _result(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return record(parse_json(path.read_text()), "the result")
    except DamagedError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path.name} cannot be read ({error})") from None


def _journal(path: Path) -> Sequence[Epoch]:
    epochs: list[Epoch] = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return epochs
    for line in lines:
        try:
            event = parse_json(line)
            if "epoch" in event and "terms" in event:
                epochs.append(_epoch(event))
        except (ValueError, TypeError):
            break
    return epochs


def _epoch(event: Mapping[str, Any]) -> Epoch:
    shares = [None if event.get(name) is None else proportion(event[name], name) for name in ("clean", "robust")]
    terms = {name: number(value, name) for name, value in fields(event.get("terms")).items() if value is not None}
    epoch = whole_number(event["epoch"])
    if epoch is None:
        raise DamagedError(f"an epoch is {event['epoch']!r:.40}, not a whole number")
    return Epoch(epoch, shares[0], shares[1], terms)


def _passes(content: Mapping[str, Any]) -> int | None:
    counts = [whole_number(value) for value in content.values()]
    return sum(count for count in counts if count is not None) if counts and None not in counts else None
