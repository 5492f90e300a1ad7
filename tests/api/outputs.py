"""What commands print and write, as data: the plans of the shipped studies and claims, and the page of sample results.

python -m tests.api.outputs  (writes the files in tests/api/golden again)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from kdiga.cli.run_progress import planned
from kdiga.experiments.board import RunBoard, RunSpec
from kdiga.experiments.claims.claims import Claims, load_claims
from kdiga.experiments.claims.run_records import RunRecords, default_records
from kdiga.experiments.study import load_study
from kdiga.recipes.shipped import find_recipe, shipped
from kdiga.report import write_page
from tests.report.samples import write_all

GOLDEN = Path(__file__).with_name("golden")
PLANS, PAGE = GOLDEN / "plans.json", GOLDEN / "page.txt"
COLUMNS = ("folder", "kind", "method", "epochs", "seed", "needs", "state")  # of a run in the output of --dry-run
VOID = {"meta", "link", "img", "br"}


def planned_recipes() -> list[str]:
    """Return the names of the shipped studies and claims."""
    return [name for name in shipped() if name.startswith(("study-", "claims-"))]


def dry_run(name: str) -> tuple[dict[str, Any], list[str]]:
    """Return what ``--dry-run --json -`` prints of a recipe in an empty folder, and a hash of each run's settings.

    The images of the recipe are not needed: the command checks that they are there, and prints nothing of them.
    """
    experiment = load_study(name) if name.startswith("study-") else load_claims(name)
    if isinstance(experiment, Claims):
        experiment = replace(experiment, records=RunRecords(default_records(find_recipe(name))))
    board = RunBoard(experiment.run_specs, experiment.out)
    states = [experiment.shown_state(board, run_spec) for run_spec in experiment.run_specs]
    return planned(experiment, states), [_hash(_settings(run_spec)) for run_spec in experiment.run_specs]


def plan(name: str) -> list[list[Any]]:
    """Return the dry run of a recipe in compact form: a row for each run, its columns and the hash of its settings."""
    found, hashes = dry_run(name)
    assert found.keys() == {"kind", "folder", "runs"}
    assert all(tuple(run) == COLUMNS for run in found["runs"])
    return [[*run.values(), settings] for run, settings in zip(found["runs"], hashes, strict=True)]


def plans_as_text(plans: dict[str, list[list[Any]]]) -> str:
    """Return the plans as JSON with one run a line."""
    blocks = list[str]()
    for name, rows in plans.items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        blocks.append(f"{json.dumps(name)}: [\n{lines}\n]")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def page_lines(folder: Path) -> list[str]:
    """Return the visible text of the page of the sample results, an element's text a line, and a hash of the elements.

    The hash is of the names, ids and classes of the elements, in their order. Drawings are left out, as the library
    that draws them decides their elements; their descriptions are among the lines.

    Args:
        folder: an empty one for the sample results, named "results" as on the page.
    """
    text = write_page([write_all(folder)]).path.read_text()
    reader = _Reader()
    reader.feed(text)
    return [f"elements: {_hash(reader.elements)}", *reader.lines]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines, self.elements = list[str](), list[list[str | None]]()
        self._hidden = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if self._hidden or tag in ("style", "svg"):
            self._hidden += [] if tag in VOID else [tag]
            return
        self.elements.append([tag, given.get("id"), given.get("class")])
        self.lines += [f"({found})" for name in ("aria-label", "alt") if (found := given.get(name))]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._hidden and tag not in ("style", "svg"):
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.lines.append(" ".join(data.split()))


def _settings(cell: RunSpec) -> dict[str, Any]:
    """Return everything of a run that the output of --dry-run leaves out."""
    floor = cell.floor
    return {
        "label": cell.label,
        "recipe": cell.recipe.to_dict(),
        "trials": cell.trials,
        "which": cell.which,
        "validated": cell.validated,
        "floor": None if floor is None else [floor.start, floor.at_most],
        "after": [[step.file, step.asked] for step in cell.after],
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _written() -> Iterator[tuple[Path, str]]:
    yield PLANS, plans_as_text({name: plan(name) for name in planned_recipes()})
    with tempfile.TemporaryDirectory() as folder:
        yield PAGE, "\n".join(page_lines(Path(folder) / "results")) + "\n"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for path, text in _written():
        path.write_text(text)
