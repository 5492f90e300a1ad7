"""``kdiga export RUN``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import model_line, say, show_table
from kdiga.results.attack_names import attack_name
from kdiga.workflows.requests import ExportRequest

if TYPE_CHECKING:
    from rich.console import Console


@command()
def export(request: ExportRequest, output: Output) -> None:
    """Write a model for other programs; check and measure each file.

    Each file is compared with the model, attacked and timed, and a model card is written.

    Example: kdiga export runs/demo/tangent --to onnx,torch-export,hf --int8
    """
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.export import run_export

    with EvaluationProgress(output.console, request.model) as progress:
        found = run_export(request, command=command_line(), progress=progress)
    _show(output.console, found.content)
    say(output.console, f"Results: {found.folder}, with a model card that says how to load each file")
    output.result(found.content, found.folder)


def _show(console: Console, content: Mapping[str, Any]) -> None:
    say(console, model_line(content, "the first "))
    formats = content["formats"].values()
    attacks = list(dict.fromkeys(name for one in formats for name in one["accuracy"]))
    batches = list(dict.fromkeys(size for one in formats for size in one["latency_ms"]))
    headings = ["format", "bytes", "differs by", "same class", *map(attack_name, attacks)]
    headings += [f"ms, batch {size}" for size in batches]
    show_table(console, headings, (_cells(name, one, attacks, batches) for name, one in content["formats"].items()))
    copies = [name for name, one in content["formats"].items() if one["same_as"]]
    if copies:
        say(console, f"{', '.join(copies)}: the model itself, bit for bit, so its figures are those of pytorch.")


def _cells(name: str, one: Mapping[str, Any], attacks: list[str], batches: list[str]) -> Iterator[str]:
    near = one.get("agreement")
    yield name
    yield f"{one['bytes']:,}" if one["bytes"] else ""
    yield f"{near['largest_difference']:.1e}" if near else ""
    yield f"{near['same_class']:.1%}" if near else ""
    for attack in attacks:
        yield f"{one['accuracy'][attack]:.1%}" if attack in one["accuracy"] else ""
    for size in batches:
        found = one["latency_ms"].get(size)
        yield f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else ""
