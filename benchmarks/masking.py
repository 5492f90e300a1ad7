"""How often the masking checks flag a masked model and a sound one.

    python -m benchmarks.masking                 # both tables, on digits
    python -m benchmarks.masking RUN [RUN ...]   # findings on trained models, each with --teacher TEACHER if given

Masked models are those of tests/evaluation/masking/planted.py. Prints Markdown tables. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import collections
import time

import torch
from torch import nn

from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from kdiga.workflows.loaded_model import load_judged_model, load_test_set
from kdiga.workflows.requests import ModelRequest
from tests.evaluation.masking.planted import PLANTED, THREAT, digits, plain, robust, small, trained

NAMES = [check.name for check in CHECKS]
SIGNS = {"failed": "F", "warning": "w", "skipped": "-", "passed": "."}


def linear(seed: int) -> nn.Module:
    """Return a trained linear classifier."""
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return trained(model, *digits()[0], seed=seed)


def planted(seeds: range) -> None:
    """Print the verdict of each seed for each masked model and check."""
    print(f"| masked model | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
    images, labels = digits()[1]
    for name, model in PLANTED.items():
        verdicts = collections.defaultdict(str)
        for seed in seeds:
            findings = check_masking(
                model.build(seed), images, labels, threat=THREAT, seed=seed, teacher=plain(seed + len(seeds))
            )
            for finding in findings:
                verdicts[finding.name] += SIGNS[finding.verdict]
        print(f"| {name} | {' | '.join(verdicts[check] for check in NAMES)} |", flush=True)


def sound(seeds: range) -> None:
    """Print the number of warnings and failures for each kind of sound model and threat model."""
    print("| sound model | threat model | models | findings | warnings | failures |\n|---|---|---|---|---|---|")
    images, labels = digits()[1]
    kinds = {"plain": plain, "adversarially trained": robust, "linear": linear, "untrained": lambda s: small(s).eval()}
    for name, build in kinds.items():
        for threat in (ThreatModel("linf", 0.05), THREAT, ThreatModel("l2", 1.0)):
            seen = collections.Counter[str]()
            lines = list[str]()
            for seed in seeds:
                model = build(seed)
                with torch.no_grad():
                    answers = model(images).argmax(1) if name == "untrained" else labels
                teacher = robust((seed + 1) % len(seeds))
                findings = check_masking(model, images, answers, threat=threat, seed=seed, teacher=teacher)
                seen.update(finding.verdict for finding in findings)
                lines += [f"{f.name}: {f.message}" for f in findings if f.verdict in ("warning", "failed")]
            made = seen.total() - seen["skipped"]
            about = f"{threat.norm} {threat.eps:g}"
            print(f"| {name} | {about} | {len(seeds)} | {made} | {seen['warning']} | {seen['failed']} |", flush=True)
            for line in lines:
                print(f"<!-- {line} -->", flush=True)


def runs(models: list[str], teacher: str | None, seed: int) -> None:
    """Print the findings on trained models that are not plain passes, and the seconds they took."""
    total = collections.Counter[str]()
    for model in models:
        test_set = load_test_set([model])
        images, labels = next(iter(test_set.images.batches(500)))
        on_cpu = ModelRequest(device="cpu")
        loaded = load_judged_model(model, test_set, on_cpu)
        teacher_model = None if teacher is None else load_judged_model(teacher, test_set, on_cpu, "teacher").model
        started = time.perf_counter()
        findings = check_masking(
            loaded.model,
            images,
            labels,
            threat=test_set.threat,
            seed=seed,
            teacher=teacher_model,
            fingerprint=loaded.about["fingerprint"],
        )
        total.update(finding.verdict for finding in findings)
        print(f"{model}: {time.perf_counter() - started:.0f} s", flush=True)
        for finding in findings:
            if finding.verdict in ("warning", "failed"):
                print(f"  {finding.verdict} {finding.name}: {finding.message}", flush=True)
    print(dict(total))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", choices=("planted", "sound"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.runs:
        runs(asked.runs, asked.teacher, asked.seed)
        return
    if asked.table != "sound":
        planted(range(asked.seeds))
    if asked.table != "planted":
        sound(range(asked.seeds))


if __name__ == "__main__":
    main()
