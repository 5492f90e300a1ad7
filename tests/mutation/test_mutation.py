"""The search for faults that tests miss: which faults are made, and that a trial ends whatever the fault does."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

from tests.mutation.mutants import Source, sampled

ROOT = Path(__file__).parents[2]
CODE = '''"""A docstring."""
from typing import overload

@overload
def half(x: int, by: int = 2) -> int: ...
def half(x: "int" = 1, by: int = 2):
    if by < 1:
        raise ValueError("by was too small")
    return x / by
'''


def test_faults_are_of_behaviour_and_not_of_messages_types_or_overloads():
    found = {(mutant.lines[0], mutant.after) for mutant in Source("half.py", CODE).sample(Random(0))}
    assert found == {
        (6, 'def half(x: "int" = 2, by: int = 2):'),
        (6, 'def half(x: "int" = 1, by: int = 3):'),
        (7, "if by <= 1:"),
        (7, "if by < 2:"),
        (8, "raise ValueError(None)"),
        (9, "return x * by"),
    }


def test_a_sample_is_python_follows_its_seed_and_holds_every_module():
    patterns = ("src/kdiga/losses.py", "src/kdiga/attacks/*.py", "src/kdiga/gradients/input_gradient.py")
    mutants, population = sampled(ROOT, patterns, 40, seed=3)
    assert sampled(ROOT, patterns, 40, seed=3) == (mutants, population)
    assert sampled(ROOT, patterns, 40, seed=4)[0] != mutants
    assert {mutant.path for mutant in mutants} == set(population)
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert abs(len(mutants) - 40) <= len(population)
    for mutant in mutants:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse((ROOT / mutant.path).read_text()))


TRIALS = """
import json, sys, time
from pathlib import Path
from tests.mutation.trial import Quickest, Trial
tree, found = Path(sys.argv[1]), {}
for name, limit in (("right", 60), ("wrong", 60), ("endless", 2), ("greedy", 60), ("absent", 60)):
    wanted = {f"tests/test_planted.py::test_{name}": 0.1}
    trial = Trial.start(tree, ["tests/test_planted.py"], lambda: Quickest(wanted, wanted), limit, 1.0)
    while (outcome := trial.done()) is None:
        time.sleep(0.02)
    found[name] = outcome
print(json.dumps(found))
"""
PLANTED = """
def test_right(): pass
def test_wrong(): assert False
def test_endless():
    while True: pass
def test_greedy(): assert len(bytearray(2**31))
"""


def test_a_trial_ends_in_bounded_time_and_memory(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_planted.py").write_text(PLANTED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", TRIALS, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == {
        "right": "survived",
        "wrong": "killed",
        "endless": "timeout",
        "greedy": "killed",
        "absent": "survived",
    }
