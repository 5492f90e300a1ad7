"""Stores filled in a moment: 360 small images of four classes, and a teacher trained on the spot."""

from __future__ import annotations

from dataclasses import replace

import pytest

import kdiga
from kdiga.data import split
from kdiga.methods import method_by_name
from kdiga.runs.fingerprints import architecture_of, fingerprint_of_model
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.teachers.fill import fill
from kdiga.training import TrainingSettings
from kdiga.training.teacher_sources import conditions, live_source
from tests.training.test_loop import QUICK, THREAT, small

AUGMENTED = QUICK | {"augment": "crop-flip"}


@pytest.fixture(scope="package")
def robust(stripes):
    teacher = small(2, "cnn-8")
    kdiga.distill(teacher, None, stripes, method="pgd-at", epochs=4, threat=THREAT, **QUICK)
    return teacher


class Filler:
    """Fills stores of a teacher and a data set, as a recipe would."""

    def __init__(self, teacher, data, method="kdiga", **settings):
        self.teacher, self.settings = teacher, TrainingSettings.from_keywords(1, AUGMENTED | settings)
        self.train = split(data, self.settings.validation_share, self.settings.seed)[0]
        self.needs = method_by_name(method).needs

    def manifest(self, **changes):
        manifest = Manifest(
            teacher=fingerprint_of_model(self.teacher),
            architecture=architecture_of(self.teacher),
            views=2,
            dtype="fp32",
            downsample=1,
            shard_examples=100,
            batch_size=20,
            device="cpu",
            version="0",
            **conditions(self.train, self.needs, self.settings),
        )
        return replace(manifest, **changes)

    def source(self):
        manifest = self.manifest()
        return live_source(self.teacher, self.train, manifest.gradient_of, self.settings)

    def fill(self, folder, **changes):
        store = Store.create(folder, self.manifest(**changes))
        fill(store, self.source())
        return CachedTeacher.open(folder)


@pytest.fixture
def filler(robust, stripes):
    return Filler(robust, stripes)
