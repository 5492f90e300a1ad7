"""What commands that judge models share: progress, the line about the model, and the place of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdiga.cli.app import command_line
from kdiga.cli.output import Output
from kdiga.cli.printing import link, say
from kdiga.results.attack_names import eps_text
from kdiga.workflows.requests import JudgeRequest


def run_judged(
    work: Callable[..., tuple[dict[str, Any], Path | None]],
    request: JudgeRequest,
    output: Output,
    label: str,
    show: Callable[[Output, dict[str, Any]], None],
) -> None:
    """Run a workflow with progress, show what it found, and write the result as the user asked for it."""
    from kdiga.progress_bar import TaskBar

    with TaskBar(output.console, label) as progress:
        content, folder = work(request, command=command_line(), progress=progress)
    show(output, content)
    if folder is not None:
        say(output.console, f"Results: {link(folder)}")
    output.result(content, folder)


def model_line(content: Mapping[str, Any], which: str = "") -> str:
    """Return the model and the test images of a result; ``which`` stands before the number of images."""
    threat = content["threat"]
    place = f", from {content['data_from']}" if "data_from" in content else ""
    return (
        f"{content['model']}: {content['parameters']:,} parameters, {threat['norm']} eps {eps_text(threat['eps'])}, "
        f"{which}{content['examples']} test images of {content['data']}{place}"
    )
