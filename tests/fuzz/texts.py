"""YAML that people write: recipes, studies, claims recipes, and strings on the command line."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import yaml

from kdiga.experiments.board import RunBoard, RunSpec
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.claims.run_records import RunRecords
from kdiga.experiments.curve import load_curve
from kdiga.experiments.study import load_study
from kdiga.recipes.validate import load_recipe, recipe_from_dict
from kdiga.types import ThreatModel
from tests.fuzz.mutations import TEXTS, damaged_json, damaged_yaml
from tests.fuzz.oracles import check_leaves, json_of, yaml_of
from tests.fuzz.target import target

RECIPE = """\
data: {name: digits, train_examples: 100, workers: 0, extra: {path: x.npz, share: 0.5}}
student: {name: cnn-4, activation: silu, num_classes: 10, image_size: 8, normalization: [[0.5], [0.5]]}
teacher: {name: teacher.safetensors, normalization: none}
method: {name: kdiga, gradient_weight: 10, temperature: 2}
threat: {norm: linf, eps: 8/255}
training: {epochs: 2, lr: 1e-3, seed: 0, batch_size: 32, milestones: [0.5, 0.75], schedule: multi-step, precision: fp32}
rounds: null
"""
STUDY = """\
base:
  data: digits
  student: cnn-4
  teacher: robust
  threat: {norm: linf, eps: 0.1}
  training: {epochs: 3, batch_size: 16}
seeds: [0, 1]
teachers:
  robust: {student: cnn-8, method: ce}
methods:
  ce: ce
  kd: {name: kd, temperature: 4}
  long: {method: kd, training: {epochs: 9}}
evaluate: {attacks: [clean, pgd-5], examples: 20, which: [best]}
tune: {trials: 2, epochs: 1}
"""
CLAIMS = """\
data: digits
threat: {norm: linf, eps: 0.1}
training: {epochs: 1}
teachers:
  big: {student: cnn-8, method: pgd-at}
students:
  small: cnn-4
  own: {student: cnn-4, training: {epochs: 2}}
pairs: {big: [small, own]}
methods: {ce: ce, kd: kd, kdiga: {method: {name: kdiga, gradient_weight: 3}, training: {epochs: 3}}}
judged: [kdiga]
pretrained:
  students: {old: {name: old.safetensors}}
  teachers: [big]
  training: {epochs: 1}
  tune_trials: 2
  at_most: 1.0
seeds: [0, 1]
evaluate: {attacks: [clean, autoattack], examples: 200}
tune: {trials: 2, epochs: 1, teacher: big, student: small}
certify: {examples: 5, batches: 10}
explain: {examples: 20, steps: 4}
rules: {kept: 0.9}
"""
FEW = CLAIMS.replace("seeds: [0, 1]", "seeds: [0]").replace("trials: 2", "trials: 1")  # half the runs, and the time


def writes(text: str, name: str = "r.yaml") -> object:
    return lambda folder: (folder / name).write_text(text) and None


@target("yaml.recipe", {"r.yaml": damaged_yaml}, writes(RECIPE))
def read_recipe(folder: Path) -> None:
    recipe = load_recipe(folder / "r.yaml").to_dict()
    given = yaml_of(folder / "r.yaml")
    threat = given.get("threat")
    check_leaves(given, recipe)
    assert recipe_from_dict(recipe).to_dict() == recipe, "its resolved form is understood otherwise"
    assert 0 <= recipe["threat"]["eps"] <= 1 or threat["norm"] != "linf", "an eps beyond the pixels"


@target("yaml.study", {"r.yaml": damaged_yaml}, writes(STUDY))
def read_study(folder: Path) -> None:
    cells = load_study(folder / "r.yaml", out=folder / "out").run_specs
    check_cells(cells, folder / "out", yaml_of(folder / "r.yaml"))


@target("yaml.claims", {"r.yaml": damaged_yaml}, writes(FEW))
def read_claims(folder: Path) -> None:
    cells = load_claims(folder / "r.yaml", out=folder / "out").run_specs
    check_cells(cells, folder / "out", yaml_of(folder / "r.yaml"))


def check_cells(cells: Sequence[RunSpec], out: Path, given: Any) -> None:
    """Check that runs lie apart below the folder, and have the seeds and the threat model that were given."""
    names = [cell.folder for cell in cells]
    stays_inside(names, out)
    assert len(set(names)) == len(names), "two runs in one folder"
    base = given.get("base", given)
    for cell in cells:
        check_leaves(base.get("threat"), vars(cell.recipe.threat), "threat")
        if cell.kind == "method":
            seed = cell.recipe.training.seed
            assert seed in given.get("seeds", [seed]), f"seed {seed}"
            assert cell.folder.endswith(f"seed-{seed}"), f"{cell.folder} has seed {seed}"


def stays_inside(names: list[str], out: Path) -> None:
    for name in names:
        assert (out / name).resolve().is_relative_to(out.resolve()), f"{name!r} is outside"


STRINGS = "method.gradient_weight=0,0.3,1\n--set training.seed=1\nnorm linf\neps 8/255\n"


def damaged_strings(content: bytes, random: Random) -> bytes:
    """Return strings with foreign text in them."""
    lines = content.decode().splitlines()
    row = random.randrange(len(lines))
    foreign = random.choice(
        [
            *TEXTS,
            "1e999999999",
            "1/0",
            "nan",
            "inf",
            "=",
            ".",
            "method.",
            "method.x=1e400",
            "a.b.c=[",
            "x" * 999,
            "1,,1",
            "training.=1",
            "9" * 5000,
        ]
    )
    way, place = random.randrange(3), random.randrange(len(lines[row]) + 1)
    lines[row] = (
        foreign
        if way == 0
        else lines[row].partition("=")[0] + "=" + foreign
        if way == 1
        else lines[row][:place] + foreign + lines[row][place:]
    )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@target(
    "command line",
    {"s.txt": damaged_strings},
    lambda folder: ((folder / "s.txt").write_text(STRINGS), writes(RECIPE.replace("cnn-4", "a.pt"))(folder)),
)
def read_strings(folder: Path) -> None:
    if not (folder / "s.txt").is_file():
        return
    lines = [*(folder / "s.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n"), "", "", "", ""]
    over, override, norm, eps = lines[:4]
    threat = ThreatModel.parse(norm.removeprefix("norm "), eps.removeprefix("eps "))
    check_leaves(eps.removeprefix("eps "), threat.eps, "eps")
    sweep = load_curve(folder / "r.yaml", over, overrides=[override.removeprefix("--set ")], out=folder / "out")
    stays_inside([cell.folder for cell in sweep.run_specs], folder / "out")
    name, _, values = over.partition("=")
    if name.strip() == "method.gradient_weight":
        found = {float(cell.recipe.method.gradient_weight) for cell in sweep.run_specs if cell.kind == "method"}
        assert {float(Fraction(one.strip())) for one in values.split(",")} == found, (
            f"{values!r:.60} was read as {found}"
        )


def write_records(folder: Path) -> None:
    record = {
        "failure.json": {"status": "diverged", "error": "x", "time": 1.0, "trace": None},
        "best-test.json": {"kind": "evaluation", "correct": {"clean": "0110"}, "settings": {"a": 1}},
        "config.yaml": {"data": {"name": "digits"}},
        "result.json": {"method": "kd", "minutes": 1.0},
    }
    (folder / "kept").mkdir()
    (folder / "kept/ce--small--seed-0.json").write_text(json.dumps(record))


@target("claims records", {"kept/ce--small--seed-0.json": damaged_json}, write_records)
def read_records(folder: Path) -> None:
    cells, out = some_cells(), folder / "out"
    board = RunBoard(cells, out)
    RunRecords(folder / "kept").restore(board)
    [board.state(cell) for cell in cells]
    outside = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("kept", "out")]
    assert not outside, f"wrote {outside}"
    allowed = {"failure.json", "best-test.json", "config.yaml", "result.json", "explanation.json", "certificate.json"}
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in written} <= allowed, "wrote another file"
    record = json_of(folder / "kept/ce--small--seed-0.json")
    for path in written:
        told = record[path.name]
        if path.suffix == ".json" and isinstance(told.get("correct"), dict):
            rows = {name: [int(one) for one in row] for name, row in told["correct"].items()}
            told = told | {"correct": rows}
        again = json_of(path) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        assert repr(again) == repr(told).replace("'{out}/", f"'{out}/"), f"{path.name} is not what the record says"


@functools.cache
def some_cells() -> Sequence[RunSpec]:
    """Return the runs of the claims recipe, whose records are damaged and not it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "r.yaml").write_text(CLAIMS)
        return load_claims(Path(folder) / "r.yaml", out=Path(folder) / "out").run_specs
