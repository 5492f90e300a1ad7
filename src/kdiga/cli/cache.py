"""``kdiga cache RECIPE``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say
from kdiga.workflows.options import DryRun, Option, RecipeName, Settings

if TYPE_CHECKING:
    from kdiga.workflows.cache import CachePlan


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """A teacher cache of a recipe with a section ``cache``."""

    recipe: RecipeName
    settings: Settings = ()
    workers: Annotated[int, Option("Number of processes that fill the cache.", least=1)] = 1
    overwrite: Annotated[bool, Option("Replace the cache in the folder.")] = False
    dry_run: DryRun = False


@command()
def cache(request: CacheRequest, output: Output) -> None:
    """Store a teacher's logits and input gradients for training.

    The recipe has a section cache; see docs/cache.md. The same command continues where an earlier one stopped, shares
    the work of one in a second terminal, and replaces damaged shards.

    Example: kdiga cache recipes/digits-kdiga.yaml --set cache.folder=runs/cache
    """
    from kdiga.cli.progress import JobProgress
    from kdiga.distributed.launch import is_main_process
    from kdiga.recipes.validate import load_recipe
    from kdiga.workflows.cache import compare_with_live, fill_cache, format_bytes, plan_cache
    from kdiga.workflows.prepare import prepare

    console, started = output.console, time.perf_counter()
    recipe = load_recipe(request.recipe, request.settings)
    plan = plan_cache(prepare(recipe), overwrite=request.overwrite)
    say(console, _about(plan))
    if request.dry_run:
        say(console, f"# would write to {plan.store.folder}")
        output.result(_content(plan, dry_run=True))
        return
    with JobProgress(console, "cache") as progress:
        damaged = fill_cache(plan, workers=request.workers, on_shard=progress)
    if not is_main_process():
        return
    for line in damaged:
        say(console, f"{line}: filled again.")
    manifest = plan.store.manifest
    rows, seconds = manifest.examples * manifest.views, time.perf_counter() - started
    agreement = compare_with_live(plan)
    gradients = "" if agreement.gradients is None else f", gradients {agreement.gradients:.1e}"
    say(
        console,
        f"{format_bytes(plan.size)}, {rows:,} rows, {seconds:.1f} s. Largest relative error against the live teacher "
        f"on one batch: logits {agreement.logits:.1e}{gradients}. Next: kdiga train {request.recipe}",
    )
    output.result(
        _content(plan, dry_run=False)
        | {"seconds": seconds, "filled_again": list(damaged), "largest_relative_error": asdict(agreement)},
        plan.store.folder,
    )


def _content(plan: CachePlan, *, dry_run: bool) -> dict[str, Any]:
    """Return the plan as plain data; shards are missing as of now."""
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
