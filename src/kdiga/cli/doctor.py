"""``kdiga doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.table import Table

from kdiga.cli.app import app
from kdiga.cli.output import Json, Output
from kdiga.cli.printing import print_table, say


@app.command()
def doctor(json_file: Json = None) -> None:
    """Say whether this machine is ready: packages, devices, threads, disk, data. Nothing is downloaded.

    The exit status is 1 if something that kdiga cannot do without is broken.

    Example: kdiga doctor
    """
    from kdiga.cli.diagnosis import examine

    output = Output(json_file)
    found = examine()
    table = Table(show_header=False)
    for justify in ("left", "left"):
        table.add_column(justify=justify, overflow="fold")
    for what, told in _rows(found):
        table.add_row(what, told.replace("[", "\\["))
    print_table(output.console, table)
    for line in found["warnings"]:
        say(output.console, f"warning: {line}", style="yellow")
    for line in found["problems"]:
        say(output.console, f"problem: {line}", style="red")
    if not found["problems"]:
        say(output.console, "Ready.")
    output.result(found)
    if found["problems"]:
        raise typer.Exit(1)


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, one in found["versions"].items():
        yield name, one if isinstance(one, str) else (one["version"] or "missing") if one["imports"] else "broken"
    for name, one in found["extras"].items():
        versions = ", ".join(f"{package} {number}" for package, number in one["versions"].items() if number)
        yield f"extra {name}", one["get"] or versions
    processor, folder = found["processor"], found["folder"]
    parts = ", ".join(name for name, there in (("bf16", processor["bf16"]), ("AMX", processor["amx"])) if there)
    yield "processor", f"{processor['name']}, {processor['cores']} cores, {parts or 'no bf16 of its own'}"
    yield from _machine_rows(found)
    yield "this folder", f"{folder['free_bytes'] / 1e9:.1f} GB free, {'' if folder['writable'] else 'not '}writable"
    for name, place in found.get("data", {}).items():
        yield f"data {name}", place or "not here"


def _machine_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "devices" not in found:
        return
    for one in found["devices"]:
        bf16 = "bf16" if one["bf16"] else "no bf16"
        yield one["device"], f"{one['name']}, {one['free_bytes'] / 1e9:.0f} of {one['bytes'] / 1e9:.0f} GB free, {bf16}"
    if not found["devices"]:
        yield "CUDA", "none"
    threads = found["threads"]
    settings = ", ".join(f"{name}={value or 'unset'}" for name, value in threads["environment"].items())
    yield "threads", f"{threads['openmp']} of PyTorch, about {threads['idle_cores']} cores idle; {settings}"
