"""Extra training images: a fixed ratio in every batch, none of them held out, the same on every call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import kdiga
from kdiga.data import Augmentation, FileSet, ImageSet, MixedSet, feed_of, split
from kdiga.data.blending import BlendedFeed
from kdiga.data.extra import load_extra
from kdiga.data.reading import Reading
from kdiga.distributed.batch_shards import Share
from kdiga.errors import InputError
from kdiga.methods import Needs, Passes
from kdiga.recipes.schema import DataConfig, ExtraConfig
from kdiga.recipes.validate import recipe_from_dict
from kdiga.training.teacher_sources import conditions
from kdiga.workflows.prepare import label_extra_images, load_recipe_data, prepare
from kdiga.workflows.train import run_recipe
from tests.data.pictures import class_folders, picture

CPU = torch.device("cpu")


@pytest.fixture
def mixed(stripes):
    """400 originals, whose pixels are below 1, and 150 extra ones, which are white."""
    extra = ImageSet(torch.full((150, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(150) % 4, stripes.classes)
    return MixedSet(ImageSet(stripes.images.clamp(max=250), stripes.labels, stripes.classes), extra, 0.7)


def feed(data, **changes):
    return feed_of(data, **({"batch_size": 40, "seed": 1, "augmentation": Augmentation(), "device": CPU} | changes))


def test_every_batch_has_the_ratio_and_the_right_images(mixed):
    batches = list(feed(mixed).epoch(0))
    assert len(batches) == len(feed(mixed)) == 10, "an epoch has the original's number of batches"
    for batch in batches:
        extra = batch.index >= 400
        assert int(extra.sum()) == 28
        assert torch.equal((batch.images == 1).flatten(1).all(1), extra)
        own = torch.where(extra, 0, batch.index)
        assert torch.equal(batch.images[~extra], mixed.original.images[own][~extra].float() / 255)
        assert torch.equal(batch.labels[extra], (batch.index[extra] - 400) % 4)
        assert torch.equal(batch.labels[~extra], mixed.labels[batch.index[~extra]])
    for part in batches[0].index.split(10):
        assert 0 < int((part >= 400).sum()) < 10, "both kinds in every part of a batch"


def test_each_image_comes_once_before_any_comes_twice(mixed):
    index = torch.cat([batch.index for epoch in range(10) for batch in feed(mixed).epoch(epoch)])
    own, extra = index[index < 400], index[index >= 400]
    assert torch.bincount(own).tolist() == [3] * 400, "1,200 places of originals in ten epochs"
    counts = torch.bincount(extra - 400)
    assert int(counts.max()) - int(counts.min()) <= 1
    assert len(own[:396].unique()) == 396, "33 batches of 12; the 34th begins the next round"


def test_batches_depend_on_seed_and_place_alone(mixed):
    whole = list(feed(mixed).epoch(3))
    later = list(feed(mixed).epoch(3, start=7))
    assert [one.index.tolist() for one in later] == [one.index.tolist() for one in whole[7:]]
    assert whole[0].index.tolist() != next(iter(feed(mixed, seed=2).epoch(3))).index.tolist()
    parts = [list(feed(mixed, share=Share(rank, 2)).epoch(3)) for rank in (0, 1)]
    for batch, one, two in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([one.images, two.images]), batch.images)


def test_no_extra_image_is_held_out(mixed):
    kept, cut = split(mixed, 0.25, seed=1)
    alone = split(mixed.original, 0.25, seed=1)
    assert torch.equal(kept.original.images, alone[0].images)
    assert torch.equal(cut.original.images, alone[1].images)
    assert len(kept.extra) == 150
    assert mixed.moments() == mixed.original.moments()


def test_it_trains(stripes, student):
    data = MixedSet(stripes.take(slice(300)), stripes.take(slice(300, None)), 0.5)
    result = kdiga.distill(student, None, data, method="ce", epochs=4, batch_size=50, lr=1e-2, validation_steps=1)
    assert result.history[-1].clean > 0.8


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_extra_images_of_a_recipe(tmp_path, student):
    own = kdiga.load_data("digits").train.take(slice(-30, None))
    images = own.images.permute(0, 2, 3, 1).numpy()
    path = npz(tmp_path / "extra.npz", image=images, label=own.labels.numpy())
    sections = {
        "data": {"name": "digits", "train_examples": 200, "extra": {"path": str(path), "share": 0.5}},
        "student": "cnn-4",
        "method": "ce",
        "training": {"epochs": 8, "batch_size": 20, "lr": 1e-2, "validation_steps": 1},
    }
    recipe = recipe_from_dict(sections)
    assert recipe_from_dict(recipe.to_dict()) == recipe
    data = load_recipe_data(recipe.data)
    assert isinstance(data.train, MixedSet)
    assert isinstance(data.train.extra, ImageSet)
    assert torch.equal(data.train.extra.images, own.images)
    run_recipe(prepare(recipe), tmp_path / "run")
    assert isinstance(load_recipe_data(recipe.data.for_test).train, ImageSet)
    labelled = label_extra_images(student.eval(), data.train, CPU)
    assert isinstance(labelled, MixedSet)
    with torch.no_grad():
        expected = student(own.images / 255).argmax(1)
    assert torch.equal(labelled.extra.labels, expected)
    assert isinstance(label_extra_images(student, data.train.original, CPU), ImageSet)


def test_recipes_that_do_not_go_together():
    extra = {"path": "more.npz"}
    base = {"data": {"name": "digits", "extra": extra}, "student": "cnn-4", "method": "kd", "teacher": "runs/teacher"}
    plain = {"student": "cnn-4", "method": "ce"}
    with pytest.raises(InputError, match=r"cache: data.extra adds images that are not in a cache"):
        recipe_from_dict(base | {"cache": {"folder": "store"}})
    with pytest.raises(InputError, match=r"data.extra.labels: was 'teacher'"):
        recipe_from_dict(plain | {"data": {"name": "digits", "extra": extra | {"labels": "teacher"}}})
    for wrong, message in (
        ({"shar": 0.5}, r"data.extra.shar: unknown key; did you mean share"),
        ({"share": 2}, "share was 2"),
    ):
        with pytest.raises(InputError, match=message):
            recipe_from_dict(base | {"data": {"name": "digits", "extra": extra | wrong}})
    assert recipe_from_dict(base | {"data": {"name": "digits", "extra": "f.npz"}}).data.extra == ExtraConfig("f.npz")


def test_a_folder_of_extra_images(tmp_path):
    original = kdiga.load_data(class_folders(tmp_path / "own"), image_size=16).train
    assert isinstance(original, ImageSet)
    more = class_folders(tmp_path / "more", each=5)
    (more / "class-0").rename(tmp_path / "away")
    extra = load_extra(more, original, Reading(in_memory=False, workers=0))
    assert isinstance(extra, FileSet)
    assert (len(extra), extra.image_size, extra.labels.tolist()) == (10, 16, [1] * 5 + [2] * 5)
    mixed = MixedSet(original, extra, 0.5)
    for batch in feed(mixed, batch_size=6).epoch(0):
        rows = batch.index[batch.index >= len(original)] - len(original)
        expected = extra.load().images[rows].float() / 255
        assert torch.equal(batch.images[batch.index >= len(original)], expected)
    (more / "class-1").rename(more / "other")
    with pytest.raises(InputError, match="class folders other, which the training images lack"):
        load_extra(more, original, Reading())


def test_bad_extra_images(tmp_path, mixed):
    original, white = mixed.original, np.zeros((4, 8, 8, 3), np.uint8)
    for arrays, message in (
        ({"images": white, "label": np.zeros(4, int)}, "holds images, label; it must hold image and label"),
        ({"image": white / 1.0, "label": np.zeros(4, int)}, "it must be uint8"),
        ({"image": white, "label": np.zeros(3, int)}, "it must hold 4 integers"),
        ({"image": white, "label": np.array([0, 1, 2, 4])}, "labels were in"),
    ):
        with pytest.raises(InputError, match=message):
            load_extra(npz(tmp_path / "x.npz", **arrays), original, Reading())
    grey = load_extra(npz(tmp_path / "x.npz", image=white, label=np.zeros(4, int)), original, Reading())
    with pytest.raises(InputError, match="extra images are 3x8x8 and the training images 1x8x8"):
        MixedSet(original, grey, 0.5)
    with pytest.raises(InputError, match=r"give an existing .npz file"):
        load_recipe_data(DataConfig("digits", extra=ExtraConfig(str(tmp_path / "none.npz"))))
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
        load_extra(tmp_path / "bad.npz", original, Reading())
    with pytest.raises(InputError, match="in a batch of 2 is 2"):
        feed(MixedSet(original, mixed.extra, 0.9), batch_size=2)


@pytest.mark.parametrize("blend", ["mixup", "cutmix"])
def test_a_blended_batch_is_a_batch_and_its_neighbours(blend, stripes):
    plain = feed(stripes)
    blended = BlendedFeed(plain, blend, 4, 1)
    batches = list(blended.epoch(2))
    assert len(batches) == len(plain)
    for batch, before in zip(batches, plain.epoch(2), strict=True):
        share = 1 - (batch.labels - torch.eye(4)[before.labels]).abs().sum(1).max() / 2
        other = torch.eye(4)[before.labels.roll(1)]
        assert torch.allclose(batch.labels, share * torch.eye(4)[before.labels] + (1 - share) * other, atol=1e-5)
        own, moved = before.images, before.images.roll(1, 0)
        if blend == "mixup":
            assert torch.allclose(batch.images, share * own + (1 - share) * moved, atol=1e-5)
        else:
            assert ((batch.images == own) | (batch.images == moved)).all()
    (later,) = list(blended.epoch(2, start=len(plain) - 1))
    assert torch.equal(later.images, batches[-1].images), "an interrupted epoch goes on with the same batches"


@pytest.mark.filterwarnings("ignore:training collapsed")
def test_blended_and_unlabelled_images_train_a_student(stripes):
    unlabelled = MixedSet(stripes, stripes.take(slice(100)), 0.5, unlabelled=True)
    for batch in feed(unlabelled).epoch(0):
        assert torch.equal(batch.labels == -100, batch.index >= len(stripes))
    settings = {"epochs": 1, "batch_size": 40, "validation_steps": 1, "stop_at_chance": False}
    teacher = kdiga.load_model("cnn-8", num_classes=4, in_channels=1, image_size=8)
    for data, method, blend in ((unlabelled, "kdiga", "none"), (stripes, "kdiga", "cutmix"), (stripes, "kd", "mixup")):
        student = kdiga.load_model("cnn-4", num_classes=4, in_channels=1, image_size=8)
        result = kdiga.distill(student, teacher, data, method=method, blend=blend, **settings)
        assert 0 < result.history[0].terms["label"] < 2
    with pytest.raises(InputError, match="blend was 'mixup' with images without labels"):
        kdiga.distill(student, teacher, unlabelled, method="kd", blend="mixup", **settings)
    with pytest.raises(InputError, match=r"blend was 'mixup' with a data loader, .* v2.MixUp"):
        kdiga.distill(student, teacher, [next(stripes.batches(8))], method="kd", blend="mixup", **settings)
    with pytest.raises(InputError, match=r"blend was 'mixup' and the teacher is a cache"):
        conditions(stripes, Needs(Passes()), kdiga.TrainingSettings(blend="mixup"))


@pytest.mark.parametrize("labels", ["none", "teacher"])
def test_a_flat_folder_of_extra_images_needs_no_labels(labels, tmp_path):
    class_folders(tmp_path / "known", suffix="png")
    for number in range(6):
        picture(tmp_path / "more" / f"{number}.png", (20, 20), number)
    config = DataConfig(
        str(tmp_path / "known"), image_size=16, workers=0, extra=ExtraConfig(str(tmp_path / "more"), 0.5, labels)
    )
    train = load_recipe_data(config).train
    assert (len(train.extra), train.unlabelled, train.extra.num_classes) == (6, labels == "none", 3)
    with pytest.raises(InputError, match="0 class folders"):
        load_recipe_data(replace(config, extra=replace(config.extra, labels="given")))
