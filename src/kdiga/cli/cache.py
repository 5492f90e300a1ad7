"""``kdiga cache RECIPE``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.workflows.cache import CachePlan


@app.command()
def cache(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A recipe, by path or name, with a section cache; see docs/cache.md.", autocompletion=recipe_names
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key: cache.dtype=int8.", autocompletion=recipe_keys
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that fill it.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the cache in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, tell the size, stop.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Store a teacher's logits and input gradients, so that training need not ask it again.

    The same command goes on where an earlier one stopped, in a second terminal helps the first, and fills again what
    is damaged.

    Example: kdiga cache recipes/digits-kdiga.yaml --set cache.folder=runs/cache
    """
    from kdiga.cli.progress import JobProgress
    from kdiga.distributed.launch import is_main_process
    from kdiga.recipes.load import load_recipe
    from kdiga.workflows.cache import compare_with_live, fill_cache, format_bytes, plan_cache
    from kdiga.workflows.prepare import prepare

    output = Output(json_file, quiet=quiet)
    console = output.console
    started = time.perf_counter()
    checked = load_recipe(recipe, settings or [])
    plan = plan_cache(prepare(checked), overwrite=overwrite)
    console.print(_about(plan), highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        console.print(f"# would write to {plan.store.folder}", highlight=False, markup=False, soft_wrap=True)
        output.result(_content(plan, dry_run=True))
        return
    with JobProgress(console, "cache") as progress:
        damaged = fill_cache(plan, workers=workers, on_shard=progress)
    if not is_main_process():
        return
    for line in damaged:
        console.print(f"{line}: filled again.", highlight=False, markup=False, soft_wrap=True)
    manifest = plan.store.manifest
    rows, seconds = manifest.examples * manifest.views, time.perf_counter() - started
    agreement = compare_with_live(plan)
    gradients = "" if agreement.gradients is None else f", gradients {agreement.gradients:.1e}"
    console.print(
        f"{format_bytes(plan.size)}, {rows:,} rows, {seconds:.1f} s. Largest relative error against the live teacher "
        f"on one batch: logits {agreement.logits:.1e}{gradients}. Next: kdiga train {recipe}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    output.result(
        _content(plan, dry_run=False)
        | {"seconds": seconds, "filled_again": list(damaged), "largest_relative_error": asdict(agreement)},
        plan.store.folder,
    )


def _content(plan: CachePlan, *, dry_run: bool) -> dict[str, Any]:
    """Return what the store is, as plain data; what of it is missing is as of now."""
    return {
        "kind": "dry-run" if dry_run else "cache",
        "folder": str(plan.store.folder),
        "bytes": plan.size,
        "shards": len(plan.store.shards),
        "missing_shards": len(plan.missing),
        "manifest": asdict(plan.store.manifest),
    }


def _about(plan: CachePlan) -> str:
    from kdiga.workflows.cache import format_bytes

    manifest, shards = plan.store.manifest, len(plan.store.shards)
    there = shards - len(plan.missing)
    kind = "logits"
    if manifest.gradient_of is not None:
        blocks = f", mean of {manifest.downsample}x{manifest.downsample}" if manifest.downsample > 1 else ""
        kind += f" and {manifest.dtype} gradients of the {manifest.gradient_of}{blocks}"
    lines = [
        f"kdiga cache: {kind}; {manifest.examples:,} examples, {manifest.views} views: {format_bytes(plan.size)} in "
        f"{plan.store.folder} ({there} of {shards} shards are there). Ctrl-C stops it and the same command continues "
        "it."
    ]
    asked = plan.run.recipe.cache
    if asked is not None and manifest.views != asked.views:
        lines.append("training.augment is none, so all views are alike and one is stored.")
    if manifest.batch_size != min(plan.run.recipe.training.batch_size, manifest.examples):
        lines.append(
            f"it is filled at batch size {manifest.batch_size} and training has {plan.run.recipe.training.batch_size}: "
            "equal to rounding, not bit for bit."
        )
    return "\n".join(lines)
