"""The parts of benchmarks/gpu.py that can be checked without a GPU; the whole of it at toy size is a slow test."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


def row(label, student, teacher, *, epoch_minutes, epochs):
    return {
        "label": label,
        "student": student,
        "teacher": teacher,
        "runs": 1,
        "epochs": epochs,
        "hours": epochs * epoch_minutes / 60,
    }


def profile(epoch_minutes=0.1):
    """A teacher of 0.2 minutes an epoch, two methods for each of two students; an attack takes half a minute."""
    students = [
        row(f"{student}-{method}", student, "robust", epoch_minutes=epoch_minutes, epochs=15)
        for student in ("small", "large")
        for method in ("kd", "kdiga")
    ]
    attacks = [{"student": name, "models": 1, "hours": 1 / 60} for name in ("big", "small", "large")]
    return {
        "training": [row("robust", "big", None, epoch_minutes=0.2, epochs=30), *students],
        "attacks": attacks,
    }


@pytest.mark.parametrize(
    ("minutes", "teacher", "students"),
    [
        (100, 30, 15),  # everything fits: the recipe's epochs
        (10, 25, 15),  # six epochs for all are less than half: the first student's methods get theirs
        (13, 30, 11),
        (1, 1, 1),  # nothing fits, and what runs is as short as possible
    ],
)
def test_the_epochs_fit_the_time(gpu, minutes, teacher, students):
    plan = gpu.choose_epochs(profile(), minutes)
    assert (plan["teacher_epochs"], plan["student_epochs"]) == (teacher, students)
    assert plan["teachers"] == ["robust"]
    assert plan["expected_minutes"]["small-kd"] == pytest.approx(0.5 + students * 0.1)


def test_large_files_are_cut(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "MOST_BYTES", 4)
    names = gpu.write_in_parts(tmp_path / "w" / "a.bin", b"0123456789")
    assert names == ["a.bin.part1", "a.bin.part2", "a.bin.part3"]
    assert b"".join((tmp_path / "w" / name).read_bytes() for name in names) == b"0123456789"
    assert gpu.write_in_parts(tmp_path / "b.bin", b"0123") == ["b.bin"]


def packed(images):
    content = struct.pack("<4sIII", b"TILE", *images.shape[:3])
    for start in range(0, len(images), 100):
        block = np.zeros((100, *images.shape[1:]), np.uint8)
        block[: len(images[start : start + 100])] = images[start : start + 100]
        height, width = images.shape[1:3]
        sheet = block.reshape(10, 10, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(10 * height, 10 * width, 3)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "WEBP", lossless=True)
        content += struct.pack("<I", buffer.tell()) + buffer.getvalue()
    return content


def test_packed_images_become_binary_batches(gpu, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (300, 4, 6, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 300)
    for name, rows in (("train-1", slice(0, 130)), ("train-2", slice(130, 250)), ("test", slice(250, 300))):
        (tmp_path / f"{name}.tiles").write_bytes(packed(images[rows]))
    np.save(tmp_path / "train_labels.npy", labels[:250])
    np.save(tmp_path / "test_labels.npy", labels[250:])
    gpu.unpack_cifar10(tmp_path)
    stored = b"".join((tmp_path / "cifar-10-batches-bin" / f"{name}.bin").read_bytes() for name in FILES)
    rows = np.frombuffer(stored, np.uint8).reshape(300, -1)
    assert (rows[:, 0] == labels).all()
    assert (rows[:, 1:].reshape(300, 3, 4, 6).transpose(0, 2, 3, 1) == images).all()


FILES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def test_the_page_lists_what_did_not_fit(gpu):
    run = {"label": "kd", "folder": "kd/seed-0", "status": "done", "epochs": 2, "minutes": 1.0, "attack_minutes": 0.5}
    study = [
        run | {"accuracy": {"clean": 0.9, "autoattack": 0.5}, "expected_minutes": 1.2},
        run | {"label": "kdiga", "status": "open", "accuracy": None, "expected_minutes": 3.14159},
    ]
    text = gpu.page({"stages": {"study": {"status": "out of time", "minutes": 2.0}}, "study": study})
    assert "| kd | 90.0 | 50.0 | 2 | 1.0 | 0.5 |" in text
    assert "| kdiga |  |  | open, about 3.1 min | | |" in text


@pytest.mark.slow
def test_all_stages_at_toy_size(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--minutes", "20", "--out", str(tmp_path / "out")]
    command += ["--recipe", "tests/benchmarks/gpu-toy.yaml"]
    command += ["--speed", "--students resnet8 --teacher cnn-8 --batch 8 --repeats 2 --only by.hand$"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {name: stage["status"] for name, stage in found["stages"].items()} == dict.fromkeys(
        ("doctor", "tests", "speed", "plan", "study", "weights"), "done"
    )
    assert len(found["stages"]["weights"]["result"]["files"]) == 4
