"""Studies: whether a table and a picture can be made of what a ``study.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdiga.report.study import about, headings, table_rows
from kdiga.report.validation import DamagedError, listing, number, proportion, record

LEAST = 1e-9  # of minutes or passes, which are drawn on a logarithmic axis


def check_study(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a study's content as it is, if its table and picture can be made of it.

    Raises:
        DamagedError: if what they need is missing, or is no figure of its kind.
    """
    for key in ("which", "attacks", "teachers", "methods", "seeds"):
        if key not in content:
            raise DamagedError(f"the study has no {key}")
    which, attacks = _texts(content["which"], "which"), record(content["attacks"], "attacks")
    if not (which and attacks):
        raise DamagedError("the study has no attack, or no weights that were attacked")
    for attack, examples in attacks.items():
        number(examples, f"examples of {attack}")
    number(record(content.get("threat"), "threat").get("eps"), "eps")
    number(record(content.get("data"), "data").get("training_images"), "training images")
    for role in ("teachers", "methods"):
        for entry in listing(content[role], role):
            _texts([record(entry, "an entry").get("label")], "a label")
            for run in listing(entry.get("runs"), "runs"):
                _check_run(record(run, "a run"), which, list(attacks))
    width = len(headings(content))
    if not any(about(content)) or any(len(row.texts()) != width for row in table_rows(content)):
        raise DamagedError("the study's table cannot be made")
    return content


def _texts(values: Any, what: str) -> Sequence[str]:
    found = listing(values, what)
    if not all(isinstance(value, str) for value in found):
        raise DamagedError(f"{what} is {found!r:.40}, not text")
    return found


def _check_run(run: Mapping[str, Any], which: Sequence[str], attacks: Sequence[str]) -> None:
    costs = {"minutes": run.get("minutes"), **record(run.get("passes") or {}, "passes")}
    for name, cost in costs.items():
        if cost is not None and cost != 0 and number(cost, name) < LEAST:
            raise DamagedError(f"{name} is {cost!r:.40}, less than any run takes")
    accuracy = record(run.get("accuracy"), "accuracy")
    for one in which:
        measured = record(accuracy.get(one, {}), f"accuracy of {one}")
        for attack in attacks:
            if attack in measured:
                proportion(measured[attack], f"accuracy under {attack}")
