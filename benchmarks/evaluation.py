"""Time of AutoAttack through kdiga and through the official package, in one process, in turns.

    python benchmarks/evaluation.py --model runs/study/tangent/seed-0 --examples 1000

The result is the ratio of the two times: above 1, kdiga has a cost. Both get the same model, images, seed and number of
threads, and their accuracies must agree within two examples: with several batches the package rebuilds them after each
attack, which changes random starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from pyautoattack import AutoAttack

import kdiga
from kdiga.runs.provenance import provenance
from kdiga.workflows.loaded_model import load_judged_model, load_test_set
from kdiga.workflows.requests import JudgeRequest, ModelRequest


def official(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, batch: int) -> list[bool]:
    """Return whether each example withstands the attack, by the package alone."""
    attack = AutoAttack(model, norm="Linf", eps=eps, seed=0, version="standard", device="cpu")
    _, predictions = attack.run_standard_evaluation(images, labels, batch_size=batch)
    return (predictions == labels).tolist()


def ours(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, batch: int) -> list[bool]:
    """Return the same, by kdiga."""
    report = kdiga.evaluate(model, [(images, labels)], eps=eps, attacks=["autoattack"], batch_size=batch)
    return list(report.results["autoattack"].correct)


def main() -> None:
    """Time both, in turns, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a run")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="pairs of runs")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    test_set = load_test_set([asked.model], JudgeRequest(examples=asked.examples))
    model = load_judged_model(asked.model, test_set, ModelRequest(device="cpu")).model
    images, labels = next(iter(test_set.images.batches(asked.examples)))
    seconds, stood = {"official": list[float](), "kdiga": list[float]()}, dict[str, int]()
    for repeat in range(asked.repeats):
        order = [("official", official), ("kdiga", ours)]
        for name, run in order if repeat % 2 == 0 else reversed(order):
            started = time.perf_counter()
            stood[name] = sum(run(model, images, labels, test_set.threat.eps, asked.batch))
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {seconds[name][-1]:.1f} s, {stood[name]} of {len(labels)} stand", flush=True)
    ratios = [own / reference for own, reference in zip(seconds["kdiga"], seconds["official"], strict=True)]
    print(f"kdiga / official: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if abs(stood["kdiga"] - stood["official"]) > 2:
        raise SystemExit("the two do not agree")
    if asked.json is not None:
        result = {"seconds": seconds, "ratios": ratios, "stood": stood, "asked": vars(asked) | {"json": None}}
        asked.json.write_text(json.dumps(result | {"provenance": provenance()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
