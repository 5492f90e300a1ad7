"""Cost of a folder of images: time to the first step, and whether decoding is fast enough for a student.

    python benchmarks/folder.py start --images 50000
    python benchmarks/folder.py feed --folder data/imagenette --image-size 224 --pairs 5

``start`` writes a folder of small JPEGs and times, in a separate process, everything before the first training step:
scanning, the split, the moments of a sample, the student, the first batch. ``feed`` trains a student on a folder and on
random images in memory in turns, a few steps each. It takes the ratio of examples per second within each pair, so that
other load on the machine affects both, and prints the median and range of the ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FIRST_STEP = """
import sys, time
begun = time.perf_counter()
import kdiga
from kdiga.recipes.validate import recipe_from_dict
from kdiga.workflows.prepare import build_models, load_recipe_data
from kdiga.data import augmentation_by_name, feed_of, split
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset

def main():
    imported = time.perf_counter()
    data = {"name": sys.argv[1], "image_size": 64}
    recipe = recipe_from_dict({"data": data, "student": "resnet18", "method": "ce"})
    data = load_recipe_data(recipe.data)
    scanned = time.perf_counter()
    student = build_models(recipe, data).student
    built = time.perf_counter()
    train, held_out = split(data.train, 0.1, 0)
    validation_subset(held_out, 1000)
    feed = feed_of(train, batch_size=128, seed=0, augmentation=augmentation_by_name("resized-crop-flip", 64),
                   device=device_by_name("cpu"))
    next(iter(feed.epoch(0)))
    ready = time.perf_counter()
    print(len(data.train), type(data.train).__name__, *(f"{one:.1f}" for one in (
        imported - begun, scanned - imported, built - scanned, ready - built, ready - begun, time.process_time())))

if __name__ == "__main__":
    main()
"""


def start(images: int) -> None:
    """Time everything before the first step, on a folder of 100 classes."""
    import numpy as np
    from PIL import Image

    rng, contents = np.random.default_rng(0), list[bytes]()
    for _ in range(50):
        buffer = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        contents.append(buffer.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        for label in range(100):
            for part, count in (("train", images // 100), ("val", 5)):
                place = Path(folder, part, f"class-{label:03}")
                place.mkdir(parents=True)
                for number in range(count):
                    (place / f"{number:06}.jpg").write_bytes(contents[(label + number) % len(contents)])
        script = Path(folder, "first_step.py")
        script.write_text(FIRST_STEP)
        found = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=True)
    count, kind, *seconds = found.stdout.split()
    names = (
        "imports",
        "scan and test images",
        "student and moments",
        "split, validation images, first batch",
        "all",
        "processor time of this process",
    )
    print(f"{count} training images, {kind}")
    for name, one in zip(names, seconds, strict=True):
        print(f"{name}: {one} s")


def feed(folder: str, image_size: int, student: str, batch_size: int, steps: int, pairs: int, workers: int) -> None:
    """Print the ratio of a student's throughput on a folder and on random images in memory."""
    import torch

    import kdiga
    from kdiga.data import Feed, FileSet, ImageSet, augmentation_by_name, feed_of
    from kdiga.gradients.routes import Exact
    from kdiga.methods import method_by_name
    from kdiga.model_state import seeded
    from kdiga.training import TrainingSettings
    from kdiga.training.stepper import Stepper, TrainingTask
    from kdiga.types import Batch, ThreatModel

    train = kdiga.load_data(folder, image_size=image_size, in_memory=False, workers=workers).train
    assert isinstance(train, FileSet)
    with seeded(1):
        pixels = torch.randint(0, 256, (2 * batch_size, 3, image_size, image_size), dtype=torch.uint8)
    synthetic = ImageSet(pixels, torch.arange(len(pixels)) % train.num_classes, train.classes)
    model = kdiga.load_model(student, num_classes=train.num_classes, image_size=image_size)
    settings = TrainingSettings(epochs=1, batch_size=batch_size, optimizer="sgd", lr=1e-3, schedule="constant")
    stepper = Stepper(TrainingTask(model, [], method_by_name("ce"), ThreatModel()), settings, Exact(), steps=10**6)
    stepper.train_mode()
    sources = {
        name: feed_of(
            data,
            batch_size=batch_size,
            seed=0,
            device=torch.device("cpu"),
            augmentation=augmentation_by_name(augment, image_size),
        )
        for name, data, augment in (("folder", train, "resized-crop-flip"), ("synthetic", synthetic, "none"))
    }

    def forever(source: Feed) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from source.epoch(epoch)
            epoch += 1

    batches = {name: forever(source) for name, source in sources.items()}

    def seconds(name: str) -> float:
        stepper.take_and_wait(next(batches[name]), 0)  # images decoded in the meantime are not counted twice
        begun = time.perf_counter()
        for _ in range(steps):
            stepper.take_and_wait(next(batches[name]), 0)
        return (time.perf_counter() - begun) / steps

    seconds("folder"), seconds("synthetic")
    found = [(seconds("folder"), seconds("synthetic")) for _ in range(pairs)]
    ratios = sorted(synthetic / own for own, synthetic in found)
    result = {
        "student": student,
        "image_size": image_size,
        "batch_size": batch_size,
        "workers": workers,
        "threads": torch.get_num_threads(),
        "seconds a step (folder, synthetic)": found,
        "ratio": statistics.median(ratios),
        "range": (ratios[0], ratios[-1]),
    }
    print(json.dumps(result, indent=1))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    starting = what.add_parser("start")
    starting.add_argument("--images", type=int, default=50_000)
    feeding = what.add_parser("feed")
    feeding.add_argument("--folder", required=True)
    feeding.add_argument("--student", default="timm:resnet18")
    for name, default in (("image-size", 224), ("batch-size", 16), ("steps", 3), ("pairs", 5), ("workers", 1)):
        feeding.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    {"start": start, "feed": feed}[given.pop("what")](**given)


if __name__ == "__main__":
    main()
