"""The page: verdict first, then what it rests on; one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from kdiga.errors import InputError
from kdiga.io.atomic_write import write_atomically
from kdiga.report.answer import Answer, answer
from kdiga.report.chapters import Chapter
from kdiga.report.model_index import chapters
from kdiga.report.sections.bounds import why_section
from kdiga.report.sections.certified import certified_section
from kdiga.report.sections.costs import costs_section
from kdiga.report.sections.exports import exports_section
from kdiga.report.sections.findings import findings_section
from kdiga.report.sections.gallery import gallery_section
from kdiga.report.sections.missing import missing_section
from kdiga.report.sections.models import models_section
from kdiga.report.sections.parts import Section
from kdiga.report.sections.provenance import left_out_section, provenance_section
from kdiga.report.sections.sweeps import sweep_section
from kdiga.report.sections.training import training_section
from kdiga.report.study import study_section
from kdiga.report.theme import page_colours
from kdiga.results.folders import LeftOut, Results, find_results

GENERATOR = '<meta name="generator" content="kdiga report">'
FIRST_BYTES = 1000  # of a page, in which the line above is
LONG = 4  # sections from which on a page gets a table of contents


@dataclass(frozen=True)
class Page:
    """What was written.

    Args:
        path: of the page.
        answers: of each chapter, in the page's order.
        left_out: files that were found and not used.
    """

    path: Path
    answers: Sequence[Answer]
    left_out: Sequence[LeftOut]


@dataclass(frozen=True)
class _Part:
    """A chapter as the template needs it."""

    title: str
    answer: Answer
    sections: Sequence[Section]


def write_page(folders: Sequence[Path], out: Path | None = None, title: str | None = None) -> Page:
    """Write a page about all results in some folders.

    Args:
        folders: searched for result files, 8 levels deep.
        out: of the page; None is ``report.html`` in the first folder.
        title: of the page; None is the question that it answers.

    Returns:
        where it is and what it says first. The same results give the same bytes.

    Raises:
        InputError: if a folder is none or holds nothing readable, or ``out`` is a file that is no page of ours.
    """
    if not folders:
        raise InputError("no folder was given; name folders of runs, studies or results.")
    path = out or folders[0] / "report.html"
    check_place(path)
    results = find_results(folders)
    found, remarks = chapters(results)
    left_out = [*results.left_out, *remarks]
    parts = [_part(chapter, found) for chapter in found]
    ends = [section for section in [exports_section(results.exports)] if section]
    ends += [study_section(study) for study in results.studies]
    ends += [section for section in (left_out_section(left_out), provenance_section(results)) if section]
    _write(path, _html(title or "Did the robustness transfer?", parts, ends, results))
    return Page(path, [part.answer for part in parts], left_out)


def check_place(path: Path) -> None:
    """Check that a page may be written at a path.

    Raises:
        InputError: if something else is there.
    """
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the page a file's name with --out, such as report.html.")
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    if GENERATOR.encode() not in start:
        raise InputError(f"{str(path)!r} is no page of kdiga's and would be lost; give another name with --out.")


def _part(chapter: Chapter, all_of_them: Sequence[Chapter]) -> _Part:
    said = answer(chapter)
    same = [other for other in all_of_them if other.conditions.key[:2] == chapter.conditions.key[:2]]
    sections = [
        models_section(chapter, said),
        sweep_section(chapter, first=same[0] is chapter),
        costs_section(chapter),
        certified_section(chapter),
        why_section(chapter),
        gallery_section(chapter),
        training_section(chapter),
        findings_section(chapter),
    ]
    present = [section for section in sections if section is not None]
    missing = missing_section(chapter, [section.title for section in present])
    title = str(chapter.conditions)
    return _Part(title, said, [*present, missing] if missing else present)


def _html(title: str, parts: Sequence[_Part], ends: Sequence[Section], results: Results) -> str:
    environment = Environment(
        loader=PackageLoader("kdiga.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}); give another --out.") from None
