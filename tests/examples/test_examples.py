"""Each file of examples/ trains a student of digits in somebody else's loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdiga

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "accelerate_loop.py": "accelerate",
    "hf_trainer.py": "transformers",
    "lightning_automatic.py": "lightning",
    "lightning_manual.py": "lightning",
    "timm_script.py": "timm",
    "torchrun_ddp.py": "torch",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    kdiga.save_model(kdiga.load_model("cnn-8", in_channels=1, image_size=8), path)
    return str(path)


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NEEDS)
    page = (EXAMPLES.parent / "docs/own-loop.md").read_text()
    assert all(f"`{name}`" in page for name in NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_it_runs_for_an_epoch(name, teacher, tmp_path):
    pytest.importorskip(NEEDS[name])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "torchrun" in name else []
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), teacher, "1"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[-1]) <= 1
