"""The page: verdict first, then what it rests on; one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kdiga.display import Displayed, Summary
from kdiga.errors import InputError
from kdiga.io.atomic_write import write_atomically
from kdiga.report.blocks import Section
from kdiga.report.charts import drawing, page_colours
from kdiga.report.glossary import threat_in_words
from kdiga.report.groups import ModelGroup, group_models
from kdiga.report.sections.accuracy import corruptions_section, costs_section, models_section, sweep_section
from kdiga.report.sections.certified import certified_section
from kdiga.report.sections.notes import (
    exports_section,
    findings_section,
    left_out_section,
    missing_section,
    provenance_section,
)
from kdiga.report.sections.training import training_section
from kdiga.report.sections.why import gallery_section, why_section
from kdiga.report.study import study_section
from kdiga.report.verdict import GroupVerdict, judge_group
from kdiga.results.folders import LeftOut, Results, find_results
from kdiga.results.shared import command_without_folders

GENERATOR = '<meta name="generator" content="kdiga report">'
FIRST_BYTES = 1000  # beginning of a page, with the line above
_ABSOLUTE = re.compile(r"(?<![^\s='\"(,])/(?:[\w.@~+-]+/)+([\w.@~+-]*)")  # of a path below the root, its last part
LONG = 4  # least number of sections for a table of contents


@dataclass(frozen=True, repr=False)
class Page(Displayed):
    """The page that was written, and what it says first about each group of models."""

    path: Path
    verdicts: Sequence[GroupVerdict]
    left_out: Sequence[LeftOut]

    def _summary(self) -> Summary:
        rows = [{"answer": number, "headline": one.headline} for number, one in enumerate(self.verdicts, start=1)]
        return Summary(str(self.path), rows, bars="headline")


@dataclass(frozen=True)
class _Part:
    """A group of models as the template needs it."""

    title: str
    threat: str
    verdict: GroupVerdict
    sections: Sequence[Section]


def write_page(folders: Sequence[Path], out: Path | None = None, title: str | None = None) -> Page:
    """Write a page about all results in some folders.

    Args:
        folders: Folders, searched for result files 8 levels deep.
        out: Path of the page; None is ``report.html`` in the first folder.
        title: Title of the page; None is the question that it answers.

    Returns:
        Path of the page and what it says first. The same results give the same bytes.

    Raises:
        InputError: if a folder does not exist or holds nothing readable, or ``out`` is a file that is not such a page.
    """
    if not folders:
        raise InputError("no folder was given; give folders of runs, studies or results.")
    path = out or folders[0] / "report.html"
    check_place(path)
    results = find_results(folders)
    groups, remarks = group_models(results)
    left_out = [*results.left_out, *remarks]
    with drawing():
        parts = [_part(group, groups) for group in groups]
        studies = [study_section(study) for study in results.studies]
    sections = [exports_section(results.exports), *studies, left_out_section(left_out), provenance_section(results)]
    ends = [section for section in sections if section]
    text = _html(title or "Did the robustness transfer?", parts, ends, results, folders)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}); give another --out.") from None
    return Page(path, [part.verdict for part in parts], left_out)


def check_place(path: Path) -> None:
    """Check that a page may be written at a path."""
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the page a file's name with --out, such as report.html.")
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    if GENERATOR.encode() not in start:
        raise InputError(
            f"{str(path)!r} was not written by kdiga report and would be lost; give another name with --out."
        )


def _part(group: ModelGroup, groups: Sequence[ModelGroup]) -> _Part:
    verdict = judge_group(group)
    first = next(other for other in groups if other.conditions.key[:2] == group.conditions.key[:2])
    sections = [
        models_section(group, verdict),
        sweep_section(group, first=first is group),
        corruptions_section(group),
        costs_section(group),
        certified_section(group),
        why_section(group),
        gallery_section(group),
        training_section(group),
        findings_section(group),
    ]
    present = [section for section in sections if section is not None]
    missing = missing_section(group, [section.title for section in present])
    shown = [*present, missing] if missing else present
    return _Part(str(group.conditions), threat_in_words(group.conditions), verdict, shown)


def _published(folders: Sequence[Path]) -> Callable[[Any], Any]:
    """Return a function that removes absolute paths from a text, and keeps what lies in the folders."""
    above = {f"{place}/" for one in folders for place in (one.absolute().parent, one.resolve().parent)} - {"//", "/"}

    def published(value: Any) -> Any:
        if type(value) is not str:  # drawings and marks are safe markup without paths
            return value
        for place in sorted(above, key=len, reverse=True):
            value = value.replace(place, "")
        return _ABSOLUTE.sub(r"\1", value).replace(" %", "\u00a0%")  # so that no line begins with a sign

    return published


def _html(
    title: str, parts: Sequence[_Part], ends: Sequence[Section], results: Results, folders: Sequence[Path]
) -> str:
    environment = Environment(
        loader=PackageLoader("kdiga.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=(published := _published(folders)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["published"] = lambda command: command_without_folders(published(command))
    count = sum(len(part.sections) for part in parts) + len(ends)
    text = environment.get_template("page.html").render(
        title=title,
        parts=parts,
        ends=ends,
        colours=page_colours(),
        contents=count >= LONG,
        generator=GENERATOR,
        found=_found(results),
    )
    return text.rstrip() + "\n"


def _found(results: Results) -> str:
    counts = (
        (len(results.evaluations), "evaluation"),
        (len(results.certificates), "certificate"),
        (len(results.explanations), "explanation"),
        (len(results.exports), "export"),
        (len(results.runs), "run"),
    )
    return ", ".join(f"{count} {name}{'s' * (count > 1)}" for count, name in counts if count)
