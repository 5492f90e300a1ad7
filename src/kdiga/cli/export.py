"""``kdiga export RUN``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import model_line, run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.results.attack_names import attack_name
from kdiga.statistics import percent
from kdiga.workflows.requests import ExportRequest


@command()
def export(request: ExportRequest, output: Output) -> None:
    """Write a model for other programs; check and measure each file.

    Each file is compared with the model, attacked and timed, and a model card is written.

    Example: kdiga export runs/demo/tangent --to onnx,torch-export,hf --int8
    """
    from kdiga.workflows.export import run_export

    run_judged(run_export, request, output, request.model, _show)


def _show(output: Output, content: Mapping[str, Any]) -> None:
    say(output.console, model_line(content, "the first "))
    formats = content["formats"].values()
    attacks = list(dict.fromkeys(name for one in formats for name in one["accuracy"]))
    batches = list(dict.fromkeys(size for one in formats for size in one["latency_ms"]))
    headings = ["format", "bytes", "differs by", "same class", *map(attack_name, attacks)]
    headings += [f"ms, batch {size}" for size in batches]
    show_table(
        output.console, headings, (_cells(name, one, attacks, batches) for name, one in content["formats"].items())
    )
    copies = [name for name, one in content["formats"].items() if one["same_as"]]
    if copies:
        say(output.console, f"{', '.join(copies)}: the model itself, bit for bit, so its figures are those of pytorch.")
    say(output.console, "A model card says how to load each file.")


def _cells(name: str, one: Mapping[str, Any], attacks: list[str], batches: list[str]) -> Iterator[str]:
    near = one.get("agreement")
    yield name
    yield f"{one['bytes']:,}" if one["bytes"] else ""
    yield f"{near['largest_difference']:.1e}" if near else ""
    yield percent(near["same_class"]) if near else ""
    for attack in attacks:
        yield percent(one["accuracy"][attack]) if attack in one["accuracy"] else ""
    for size in batches:
        found = one["latency_ms"].get(size)
        yield f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else ""
