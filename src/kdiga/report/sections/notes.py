"""Where every number comes from: files, commands, dates, versions, hardware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kdiga.report.sections.parts import Items, ListItem, Section, Table, TableCell
from kdiga.results.fields import fields
from kdiga.results.folders import LeftOut, Results
from kdiga.results.shared import ResultOrigin


def provenance_section(results: Results) -> Section:
    """Return the files that the page was made of, the commands that made them, and on what."""
    origins = [found.origin for found in (*results.evaluations, *results.certificates, *results.explanations)]
    origins += [found.origin for found in (*results.suitabilities, *results.exports, *results.runs)]
    distinct = list({origin.path: origin for origin in origins}.values())
    by_command: dict[tuple[str, bool], list[ResultOrigin]] = defaultdict(list)
    for origin in distinct:
        by_command[origin.command, origin.recorded].append(origin)
    rows = [
        [TableCell(origin.path.name, str(origin.path.parent)), TableCell(_date(origin)), TableCell(_seed(origin))]
        for origin in distinct
    ]
    commands = [
        ListItem(
            _files(found), title="" if recorded else "Measures the same; the file does not say its own", command=command
        )
        for (command, recorded), found in by_command.items()
        if command
    ]
    blocks: list[Table | Items] = [Items(_machines(distinct))]
    blocks.append(Items(commands, f"{len(commands)} commands"))
    blocks.append(
        Items(
            [ListItem(f"{row[0].small}/{row[0].text}, {row[1].text}{row[2].text}") for row in rows],
            f"{len(rows)} files",
        )
    )
    return Section("Provenance", blocks)


def left_out_section(left_out: Sequence[LeftOut]) -> Section | None:
    """Return the files that were found and not used; None if there are none."""
    if not left_out:
        return None
    items = [ListItem(f"left out, because {one.reason}.", "warning", str(one.path)) for one in left_out]
    return Section("Left out", [Items(items)])


def _files(found: Sequence[ResultOrigin]) -> str:
    return str(found[0].path) if len(found) == 1 else f"{found[0].path} and {len(found) - 1} more files"


def _date(origin: ResultOrigin) -> str:
    return str(origin.provenance.get("date") or "no date")[:10]


def _seed(origin: ResultOrigin) -> str:
    return "" if origin.seed is None else f", seed {origin.seed}"


def _machines(origins: Sequence[ResultOrigin]) -> list[ListItem]:
    machines = {_hardware(found) for one in origins if (found := fields(one.provenance.get("hardware")))}
    versions = {_versions(found) for one in origins if (found := fields(one.provenance.get("versions")))}
    dates = sorted({date for one in origins if (date := _date(one)) != "no date"})
    items = [ListItem("; ".join(sorted(machines)) or "not recorded", title="Hardware")]
    items.append(ListItem("; ".join(sorted(versions)) or "not recorded", title="Versions"))
    items.append(
        ListItem(" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "not recorded", title="Dates")
    )
    return items


def _hardware(found: Mapping[str, Any]) -> str:
    count = found.get("threads")
    threads = f", {count} thread{'s' * (count != 1)}" if count else ""
    return f"{found.get('processor')}, {found.get('cores')} cores{threads}, {found.get('accelerator') or 'no GPU'}"


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)
