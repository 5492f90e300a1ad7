"""YAML that people write: recipes, studies, claims recipes, and strings on the command line."""

from __future__ import annotations

from pathlib import Path
from random import Random

from kdiga.claims.kept import Kept
from kdiga.claims.plan import load_claims
from kdiga.config import load_recipe
from kdiga.study import load_study
from kdiga.study.cells import Board
from kdiga.study.sweep import load_sweep
from kdiga.types import ThreatModel
from tests.fuzz.mutations import TEXTS, damaged_json, damaged_yaml
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


def writes(text: str, name: str = "r.yaml") -> object:
    return lambda folder: (folder / name).write_text(text) and None


@target("yaml.recipe", {"r.yaml": damaged_yaml}, writes(RECIPE))
def read_recipe(folder: Path) -> None:
    load_recipe(folder / "r.yaml").to_dict()


@target("yaml.study", {"r.yaml": damaged_yaml}, writes(STUDY))
def read_study(folder: Path) -> None:
    stays_inside([cell.folder for cell in load_study(folder / "r.yaml", out=folder / "out").cells], folder / "out")


@target("yaml.claims", {"r.yaml": damaged_yaml}, writes(CLAIMS))
def read_claims(folder: Path) -> None:
    cells = load_claims(folder / "r.yaml", out=folder / "out").cells
    stays_inside([cell.folder for cell in cells], folder / "out")


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


@target("command line", {"s.txt": damaged_strings}, lambda folder: (
    (folder / "s.txt").write_text(STRINGS), writes(RECIPE.replace("cnn-4", "a.pt"))(folder)))  # fmt: skip
def read_strings(folder: Path) -> None:
    if not (folder / "s.txt").is_file():
        return
    lines = [*(folder / "s.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n"), "", "", "", ""]
    over, override, norm, eps = lines[:4]
    ThreatModel.parse(norm.removeprefix("norm "), eps.removeprefix("eps "))
    sweep = load_sweep(folder / "r.yaml", over, overrides=[override.removeprefix("--set ")], out=folder / "out")
    stays_inside([cell.folder for cell in sweep.cells], folder / "out")


def write_records(folder: Path) -> None:
    import json

    (folder / "r.yaml").write_text(CLAIMS)
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
    claims = load_claims(folder / "r.yaml", out=folder / "out")
    board = Board(claims.cells, claims.out)
    Kept(folder / "kept").restore(board)
    [board.state(cell) for cell in claims.cells]
    outside = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("kept", "out", "r.yaml")]
    assert not outside, f"wrote {outside}"
    allowed = {"failure.json", "best-test.json", "config.yaml", "result.json", "explanation.json", "certificate.json"}
    assert {path.name for path in (folder / "out").rglob("*") if path.is_file()} <= allowed, "wrote another file"
