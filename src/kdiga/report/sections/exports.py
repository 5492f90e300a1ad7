"""What was exported: size, speed and accuracy of each file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdiga.report.sections.parts import Section, Table, TableCell
from kdiga.report.wording import percent, span
from kdiga.results.attack_names import attack_name
from kdiga.results.exports import ExportResult, FormatRecord

LEAD = (
    "Each file was run on test images. Transferred attacks were made on the model in PyTorch with its gradients, "
    "Square asks the file itself for logits alone: together they are weaker than a white-box attack on an int8 file, "
    "whose robust accuracy is an upper bound. Worst: right without an attack and under every one."
)


def exports_section(exports: Sequence[ExportResult]) -> Section | None:
    """Return a table for each exported model; None if there is none."""
    if not exports:
        return None
    return Section("FormatRecord files", [_table(one) for one in exports], [LEAD])


def _table(export: ExportResult) -> Table:
    formats = list(export.formats.values())
    attacks = list(dict.fromkeys(name for one in formats for name in one.accuracy))
    batches = list(dict.fromkeys(size for one in formats for size in one.latency_ms))
    head = ["format", "bytes", "same class as PyTorch", *map(attack_name, attacks)]
    head += [f"ms, batch {size}" for size in batches]
    images = {name: one.examples[name] for one in formats for name in one.accuracy}
    counts = ", ".join(f"{attack_name(name)} {count:,}" for name, count in images.items())
    caption = (
        f"{export.model} ({export.architecture}), {export.conditions}. "
        f"Images: {counts}. Small figures: 95 % intervals; quartiles of the time, one thread."
    )
    return Table(head, [list(_cells(name, one, attacks, batches)) for name, one in export.formats.items()], caption)


def _cells(name: str, one: FormatRecord, attacks: Sequence[str], batches: Sequence[str]) -> Iterator[TableCell]:
    yield TableCell(name, f"the same as {one.same_as}" if one.same_as else one.runtime)
    yield TableCell(f"{one.bytes:,}" if one.bytes else "–")
    yield TableCell(percent(one.agreement.same_class if one.agreement else None))
    for attack in attacks:
        yield TableCell(percent(one.accuracy.get(attack)), span(one.interval_95.get(attack)))
    for size in batches:
        time = one.latency_ms.get(size)
        yield TableCell("–") if time is None else TableCell(f"{time.median:.2f}", f"{time.low:.2f} – {time.high:.2f}")
