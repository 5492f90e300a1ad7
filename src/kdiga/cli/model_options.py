"""Options that say which model, which data and where, alike in every command that takes them."""

from __future__ import annotations

from typing import Annotated

import typer

from kdiga.cli.completion import data_names, model_names, one_of

ModelName = Annotated[
    str,
    typer.Argument(
        help="A run's folder, a .safetensors file, or an architecture with --weights.", autocompletion=model_names
    ),
]
DataName = Annotated[str | None, typer.Option(help="Data set; default: the run's own.", autocompletion=data_names)]
Norm = Annotated[
    str | None, typer.Option(help="linf or l2. Default: the run's, else linf.", autocompletion=one_of("linf", "l2"))
]
Normalization = Annotated[
    str | None,
    typer.Option(
        help="none, imagenet, cifar10 or half, with --weights.",
        autocompletion=one_of("none", "imagenet", "cifar10", "half"),
    ),
]
Which = Annotated[str, typer.Option(help="best or last weights of a run.", autocompletion=one_of("best", "last"))]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=one_of("auto", "cpu", "cuda"))]
