"""The model card: what a model is for, what it withstands, how that was measured, and how to load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdiga.export.judged import WORST
from kdiga.export.snippets import snippet
from kdiga.io.markdown import code, fenced, one_line, safe
from kdiga.models import ModelSpec
from kdiga.results.attack_names import attack_name
from kdiga.types import ThreatModel

HEADER = """---
# license: to be chosen by whoever publishes the model
library_name: kdiga
pipeline_tag: image-classification
tags:
- adversarial-robustness
- knowledge-distillation
---
"""


@dataclass(frozen=True)
class Number:
    """A figure of the model itself, in PyTorch, that other commands measured.

    Args:
        what: in words.
        value: of it, in words.
        images: how many it is over; None if unknown.
        source: file, or command.
    """

    what: str
    value: str
    images: int | None
    source: str


@dataclass(frozen=True)
class CardOrigin:
    """How a model came about.

    Args:
        method: its name; "" if unknown.
        paper: of the method.
        teacher: as the recipe names it; "" for none.
        recipe: YAML; "" if unknown.
    """

    method: str = ""
    paper: str = ""
    teacher: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Card:
    """All that a card says.

    Args:
        name: of the model.
        spec: of it.
        parameters: how many.
        fingerprint: of its weights.
        data: name of the data set.
        class_names: of its outputs, in order.
        threat: what it is meant to withstand.
        formats: by name, as ``export.json`` holds them, the model in PyTorch first.
        numbers: of the model itself, from other commands.
        origin: how it came about.
        queries: of Square.
        command: that made the export.
        provenance: date, versions and hardware of the export.
    """

    name: str
    spec: ModelSpec
    parameters: int
    fingerprint: str
    data: str
    class_names: Sequence[str]
    threat: ThreatModel
    formats: Mapping[str, Mapping[str, Any]]
    numbers: Sequence[Number]
    origin: CardOrigin
    queries: int
    command: str
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def text(self, *, only: str = "") -> str:
        """Return the card in Markdown.

        Args:
            only: the format that it lies beside, whose loading alone it shows; "" shows all.
        """
        parts = [
            f"# {safe(self.name)}\n",
            _about(self),
            _threat(self.threat),
            _numbers(self),
            _formats(self),
            _loading(self, only),
            _origin(self.origin),
            _limits(self),
            _made(self),
        ]
        return (HEADER + "\n" if only else "") + "\n".join(parts)


def _about(card: Card) -> str:
    channels, size, classes = card.spec.takes
    names = safe(", ".join(card.class_names[:20])) + (", ..." if len(card.class_names) > 20 else "")
    lines = [
        f"A {_architecture(card.spec)} with {card.parameters:,} parameters that classifies {channels}x{size}x{size} "
        f"images of {safe(card.data)} into {classes} classes: {names}.",
        "",
        "Preprocessing: divide bytes by 255; pixels are floats in [0, 1], channels first. Normalisation "
        f"(mean {_values(card.spec.mean)}, deviation {_values(card.spec.std)}) is part of the network."
        + _fitting(card.spec),
        "",
        "License: to be chosen by whoever publishes the model.",
        "",
        f"Fingerprint of the weights (SHA-256): `{card.fingerprint}`.",
    ]
    return "\n".join(lines) + "\n"


def _architecture(spec: ModelSpec) -> str:
    return safe(spec.name) + (f" with {spec.activation}" if spec.activation else "")


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _fitting(spec: ModelSpec) -> str:
    channels, size, _ = spec.takes
    told = ""
    if (channels, size) != (spec.in_channels, spec.image_size):
        told += f" So is resizing to {spec.in_channels}x{spec.image_size}x{spec.image_size}, which the network takes."
    if spec.classes:
        told += f" The logits are {len(spec.classes)} of the network's {spec.num_classes} outputs."
    return told


def _threat(threat: ThreatModel) -> str:
    fraction = f" ({255 * threat.eps:.3g}/255)" if threat.norm == "linf" else ""
    return (
        f"## Threat model\n\nAny change of the image of at most eps = {threat.eps:.4g}{fraction} in the {threat.norm} "
        "norm, pixels in [0, 1], by an adversary who knows the model. An image counts as right only if no change that "
        "was tried is classified wrong.\n"
    )


def _numbers(card: Card) -> str:
    lines = ["## Measured on the model in PyTorch", ""]
    if not card.numbers:
        lines.append("Nothing beyond the table of formats below; `kdiga evaluate` measures AutoAttack, white-box.")
        return "\n".join(lines) + "\n"
    lines += ["| | | images | from |", "|---|---|---|---|"]
    for one in card.numbers:
        images = "" if one.images is None else f"{one.images:,}"
        lines.append(f"| {safe(one.what)} | {safe(one.value)} | {images} | {code(one.source)} |")
    lines += ["", "Test images; intervals are 95 % (Clopper and Pearson) over the images, not over training seeds."]
    return "\n".join(lines) + "\n"


def _formats(card: Card) -> str:
    formats = card.formats.values()
    attacks = list(dict.fromkeys(name for one in formats for name in one["accuracy"]))
    batches = list(dict.fromkeys(size for one in formats for size in one["latency_ms"]))
    head = ["format", "bytes", "same class as PyTorch", *map(attack_name, attacks)]
    head += [f"ms, batch {size}" for size in batches]
    lines = ["## Measured on the exported files", "", _row(list(map(safe, head))), "|" + "---|" * len(head)]
    lines += [_row([safe(cell) for cell in _cells(name, one, attacks, batches)]) for name, one in card.formats.items()]
    counts = {name: one["examples"][name] for one in formats for name in one["accuracy"]}
    told = ", ".join(f"{attack_name(name)} {count:,}" for name, count in counts.items())
    lines += ["", f"Share of images still right, with 95 % intervals. Images: {safe(told)}."]
    copies = [f"{name} is {one['same_as']}" for name, one in card.formats.items() if one["same_as"]]
    if copies:
        lines.append(f"Bit for bit the same function, so measured once: {safe('; '.join(copies))}.")
    if any(name not in ("clean", WORST) for name in attacks):
        lines += ["", attack_strength(card.queries)]
    if batches:
        lines += [
            "",
            "Latency: median of calls after warm-up, one thread, formats in turn; in brackets the quartiles. "
            f"{safe(_hardware(card.provenance))}.",
        ]
    return "\n".join(lines) + "\n"


def attack_strength(queries: int) -> str:
    """Return what the robust accuracies of exported files do and do not say."""
    return (
        "*Transferred* attacks were made on the PyTorch model with its gradients and tried on the file: for a float "
        "file, which computes the same function, they are white-box attacks; for an int8 file they are weaker. "
        f"*Square* is the official score-based attack with up to {queries:,} queries of the file itself. Transfer and "
        "Square together are weaker than a white-box attack made for the int8 file, so its robust accuracy is an upper "
        "bound, and a looser one than AutoAttack's on the PyTorch model. *Worst* counts an image as right only if it "
        "is right without an attack and under all of these."
    )


def _cells(name: str, one: Mapping[str, Any], attacks: Sequence[str], batches: Sequence[str]) -> Iterator[str]:
    yield name
    yield f"{one['bytes']:,}" if one["bytes"] else ""
    yield f"{one['agreement']['same_class']:.1%}" if "agreement" in one else ""
    for attack in attacks:
        value, bold = one["accuracy"].get(attack), "**" if attack == WORST else ""
        yield "" if value is None else f"{bold}{value:.1%}{bold} ({_span(one['interval_95'][attack])})"
    for size in batches:
        found = one["latency_ms"].get(size)
        yield "" if found is None else f"{found['median']:.2f} ({found['low']:.2f} - {found['high']:.2f})"


def _loading(card: Card, only: str) -> str:
    lines = ["## Loading", ""]
    for name, one in card.formats.items():
        if not one["file"] or only not in ("", name):
            continue
        source = snippet(name, card.spec.takes, in_hub_folder=bool(only))
        lines += [f"{safe(name)}, `{one['file']}`:", "", "```python", source.rstrip(), "```", ""]
    return "\n".join(lines)


def _origin(origin: CardOrigin) -> str:
    lines = ["## Training", ""]
    if not origin.recipe:
        return "\n".join([*lines, "Not known to whoever exported the model."]) + "\n"
    teacher = f"distilled from {code(origin.teacher)}" if origin.teacher else "without a teacher"
    lines += [
        f"Trained by `kdiga train` with method {code(origin.method)} ({safe(origin.paper)}), {teacher}. The recipe:",
        "",
    ]
    return "\n".join([*lines, fenced(origin.recipe.rstrip(), "yaml")]) + "\n"


def _limits(card: Card) -> str:
    attacks = sorted(
        {attack_name(name) for one in card.formats.values() for name in one["accuracy"]} - {"clean", WORST}
    )
    return (
        f"## Limits\n\nRobust accuracy is empirical: what {safe(', '.join(attacks)) or 'no attack'} and the attacks "
        "named above found, on test images of the data set. A stronger attack may find more; nothing is guaranteed but "
        "what a row says is proved. It says nothing of other norms, of a larger eps, or of images unlike the data "
        "set's.\n"
    )


def _made(card: Card) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in card.provenance.get("versions", {}).items() if version
    )
    date = str(card.provenance.get("date", ""))[:10]
    return (
        f"## Export\n\n    {one_line(card.command or 'kdiga export')}\n\n{safe(date)}; "
        f"{safe(_hardware(card.provenance))}; {safe(versions)}.\n"
    )


def _hardware(provenance: Mapping[str, Any]) -> str:
    found = provenance.get("hardware", {})
    return f"{found.get('processor')}, {found.get('cores')} cores, {found.get('accelerator') or 'no GPU'}"


def _span(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} - {100 * ends[1]:.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
