"""``kdiga inspect MODEL``."""

from __future__ import annotations

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say
from kdiga.workflows.requests import InspectRequest


@command()
def inspect(request: InspectRequest, output: Output) -> None:
    """Describe a model, and check whether it fits the data.

    The checks try its preprocessing, its input size and its order of classes on test images.

    Example: kdiga inspect file:weights/resnet4b.pth --architecture resnet4b --normalization cifar10 --data cifar10
    """
    from kdiga.workflows.inspect import inspect_named

    found = inspect_named(request)
    say(output.console, request.model)
    for line in found.lines():
        say(output.console, f"  {line}", style="yellow" if " failed: " in line else None)
    if found.examples:
        say(output.console, f"  tried on {found.examples} test images")
    output.result(found.to_dict())
