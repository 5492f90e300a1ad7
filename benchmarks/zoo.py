"""Packs models of the demo as the models of ``zoo:NAME`` and measures what is packed.

    kdiga demo --seed 0 --out runs/demo && python benchmarks/zoo.py runs/demo

Matrices become float16. Every accuracy in the index is that of the packed weights, on all test images, with the
official AutoAttack; it takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import kdiga
from kdiga.distributed.launch import one_thread
from kdiga.models.sources.zoo import FOLDER, zoo_index
from kdiga.runs.run_folder import read_config
from kdiga.workflows.demo import STUDENTS, TEACHER
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.requests import EvaluateRequest

ATTACKS = ("clean", "pgd-20", "autoattack")


def pack(run: Path, file: Path) -> None:
    """Write the best weights of a run to a file, with float16 matrices."""
    model = kdiga.load_model(run)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.half()
    kdiga.save_model(model, file)


def measure(run: Path, file: Path) -> dict[str, object]:
    """Return what the index holds of a packed model."""
    recipe = read_config(run) or {}
    threat = recipe["threat"]
    request = EvaluateRequest(
        model=str(file), data=recipe["data"]["name"], attacks=ATTACKS, norm=threat["norm"], eps=str(threat["eps"])
    )
    found = run_evaluation(request).content
    return {
        "architecture": found["architecture"],
        "parameters": found["parameters"],
        "method": recipe["method"]["name"],
        "data": found["data"],
        "threat": threat,
        "examples": found["examples"],
        "accuracy": {attack: round(found["accuracy"][attack], 4) for attack in ATTACKS},
        "seed": recipe["training"]["seed"],
        "command": f"kdiga demo --seed {recipe['training']['seed']}",
        "date": found["provenance"]["date"][:10],
        "hardware": f"{found['provenance']['hardware']['processor']}, one thread",
    }


def main() -> None:
    """Pack and measure all models of a demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    given, index = parser.parse_args(), FOLDER / "index.json"
    known = dict(zoo_index()) if index.exists() else {}
    for member in (TEACHER, *STUDENTS):
        name = f"digits-{member.name}"
        pack(given.demo / member.name, FOLDER / f"{name}.safetensors")
        with one_thread():
            known[name] = measure(given.demo / member.name, FOLDER / f"{name}.safetensors")
        index.write_text(json.dumps(known, indent=1) + "\n")
        print(name, known[name])


if __name__ == "__main__":
    main()
