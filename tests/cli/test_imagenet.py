"""The recipe for ImageNet through every stage: two processes, twenty images, networks of the same kinds but small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from kdiga.model_state import seeded
from tests.cli.test_cli import run
from tests.data.pictures import picture

RECIPE = Path(__file__).parents[2] / "recipes/imagenet-kdiga.yaml"
TEACHER = {"name": "timm:test_resnet", "weights": "test_resnet.safetensors", "normalization": "imagenet"}
STUDENT = {"name": "timm:test_vit", "weights": "test_vit.safetensors", "normalization": "half"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Return a folder with 20 images for training, 10 to judge on and weights, and the recipe's changes."""
    folder = tmp_path_factory.mktemp("imagenet")
    for part, number in (("train", 10), ("val", 5)):
        for place, name in enumerate(("n01440764", "n02102040")):
            (folder / part / name).mkdir(parents=True)
            for seed in range(number):
                picture(folder / part / name / f"{seed}.JPEG", (200, 170), 100 * place + seed)
    for name in ("test_resnet", "test_vit"):
        with seeded(0):
            network = timm.create_model(name, num_classes=2)
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    changes = [
        "data={name: '.', image_size: 160}",
        f"student={STUDENT}",
        f"teacher={TEACHER}",
        "training.epochs=1",
        "training.batch_size=8",
        "training.validation_share=0.2",
        "training.validation_steps=2",
        "training.stop_at_chance=false",  # its images are noise
    ]
    return folder, [part for change in changes for part in ("--set", change)]


@pytest.mark.slow
def test_every_stage_runs(settings):
    folder, changes = settings
    two_processes = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdiga"]
    train = ["train", str(RECIPE), *changes, "--despite-findings", "--out", "student"]
    trained = subprocess.run(
        [sys.executable, *two_processes, *train],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    run("evaluate", "student", "--attacks", "clean,pgd-2", "--examples", "4", cwd=folder)
    smoothing = ["--method=smoothing", "--sigma=0.25", "--samples=20", "--examples=2"]
    assert "smoothing" in run("certify", "student", *smoothing, cwd=folder)
    named = [f"--{key}={value}" for key, value in TEACHER.items() if key != "name"]
    run("explain", TEACHER["name"], "student", *named, "--attack=pgd-40", "--examples=2", cwd=folder)
    run("export", "student", "--to", "onnx", "--examples", "4", cwd=folder)
    run("report", "student", cwd=folder)
    assert (folder / "student/report.html").is_file()
    assert "hours" in run("profile", str(RECIPE), *changes, "--steps", "1", cwd=folder)
