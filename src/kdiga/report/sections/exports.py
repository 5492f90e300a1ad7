"""What was exported: size, speed and accuracy of each file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdiga.report.exports import Export, Exported
from kdiga.report.sections.parts import Section, Table, TableCell, percent, span
from kdiga.results.attack_names import attack_name

LEAD = (
    "Each file was run on test images. Transferred attacks were made on the model in PyTorch with its gradients, "
    "Square asks the file itself for logits alone: together they are weaker than a white-box attack on an int8 file, "
    "whose robust accuracy is an upper bound. Worst: right without an attack and under every one."
)


def exports_section(exports: Sequence[Export]) -> Section | None:
    """Return a table for each exported model; None if there is none."""
    if not exports:
        return None
    return Section("Exported files", [_table(one) for one in exports], [LEAD])


def _table(export: Export) -> Table:
    formats = list(export.formats.values())
    attacks = list(dict.fromkeys(name for one in formats for name in one.accuracy))
    batches = list(dict.fromkeys(size for one in formats for size in one.latency))
    head = ["format", "bytes", "same class as PyTorch", *map(attack_name, attacks)]
    head += [f"ms, batch {size}" for size in batches]
    ground = export.ground
    images = {name: found.images for one in formats for name, found in one.accuracy.items()}
    counts = ", ".join(f"{attack_name(name)} {count:,}" for name, count in images.items())
    caption = (
        f"{export.identity.model} ({export.identity.architecture}), {ground.data}, {ground.norm} eps {ground.eps:.4g}. "
        f"Images: {counts}. Small figures: 95 % intervals; quartiles of the time, one thread."
    )
    return Table(head, [list(_cells(one, attacks, batches)) for one in formats], caption)


def _cells(one: Exported, attacks: Sequence[str], batches: Sequence[str]) -> Iterator[TableCell]:
    yield TableCell(one.name, f"the same as {one.same_as}" if one.same_as else one.runtime)
    yield TableCell(f"{one.bytes:,}" if one.bytes else "–")
    yield TableCell(percent(one.same_class))
    for attack in attacks:
        found = one.accuracy.get(attack)
        yield TableCell("–") if found is None else TableCell(percent(found.value), span(found.interval))
    for size in batches:
        time = one.latency.get(size)
        yield TableCell("–") if time is None else TableCell(f"{time[0]:.2f}", f"{time[1]:.2f} – {time[2]:.2f}")
