"""Images on disk: the same as in memory, for any number of processes, whatever is wrong with a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types

import pytest
import torch

import kdiga
from kdiga.data import FileSet, ImageSet, augmentation_by_name, feed_of, split
from kdiga.data import class_folders as folders
from kdiga.data import decoder_pool as pools
from kdiga.data import reading as readings
from kdiga.data.decoder_pool import DecodersEndedError, Job, available_workers
from kdiga.distributed.batch_shards import Share
from kdiga.errors import InputError, KdigaWarning
from kdiga.runs.fingerprints import fingerprint_of_images
from tests.data.pictures import class_folders, picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures"))


def on_disk(folder, **changes) -> FileSet:
    data = kdiga.load_data(folder, **({"image_size": 16, "in_memory": False, "workers": 0} | changes)).train
    assert isinstance(data, FileSet)
    return data


def feed(data, *, augment="none", **changes):
    settings = {"batch_size": 4, "seed": 3, "augmentation": augmentation_by_name(augment, 16), "device": CPU}
    return feed_of(data, **(settings | changes))


def alike(one, two) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.index, b.index)
        and a.view == b.view
        for a, b in pairs
    )


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_batches_are_those_of_the_set_in_memory(folder, augment):
    lazy, held = on_disk(folder), kdiga.load_data(folder, image_size=16).train
    assert isinstance(held, ImageSet)
    assert (len(lazy), lazy.image_shape, lazy.classes) == (len(held), held.image_shape, held.classes)
    assert alike(feed(lazy, augment=augment).epoch(2), feed(held, augment=augment).epoch(2))
    for one, two in zip(split(lazy, 0.25, 1), split(held, 0.25, 1), strict=True):
        assert torch.equal(one.load().images, two.images)
    assert lazy.moments() == held.moments()


@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop-flip"])
def test_any_number_of_workers_yields_the_same_batches(folder, augment):
    here = list(feed(on_disk(folder), augment=augment).epoch(1))
    assert len(here) == 4
    for workers in (1, 2):
        assert alike(feed(on_disk(folder, workers=workers), augment=augment).epoch(1), here)


def test_an_epoch_may_begin_anywhere_and_be_shared(folder):
    data = on_disk(folder)
    whole = list(feed(data, augment="resized-crop-flip").epoch(1))
    assert alike(feed(data, augment="resized-crop-flip").epoch(1, start=2), whole[2:])
    shares = [list(feed(data, augment="resized-crop-flip", share=Share(rank, 2)).epoch(1)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.index for part in parts]), batch.index)


def test_only_what_is_needed_is_decoded(folder, monkeypatch):
    asked = []
    own = folders.Files.item
    monkeypatch.setattr(folders.Files, "item", lambda self, row: asked.append(row) or own(self, row))
    data = on_disk(folder)
    asked.clear()
    feed(data).epoch(0)
    assert not asked
    next(iter(feed(data).epoch(0, start=3)))
    assert len(asked) == 4


def test_views_are_used_in_turn(folder):
    data = on_disk(folder)
    again = feed(data, augment="resized-crop-flip", views=2)
    first, third = (
        {int(i): image for b in again.epoch(n) for i, image in zip(b.index, b.images, strict=True)} for n in (0, 2)
    )
    both = first.keys() & third.keys()
    assert len(both) > 8
    assert all(torch.equal(first[row], third[row]) for row in both)
    assert [batch.view for batch in again.epoch(3)] == [1] * 4


def test_a_corrupt_image_is_named_when_it_is_needed(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    whole = (copied / "class-1" / "003.jpg").read_bytes()
    (copied / "class-1" / "003.jpg").write_bytes(whole[:-40])  # the header is whole
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"class-1/003.jpg' cannot be read as an image"):
            on_disk(copied, workers=workers).load()
    (copied / "class-0" / "001.jpg").write_text("no picture")
    found = kdiga.load_data(copied, image_size=16, skip_corrupt=True, workers=0)
    assert len(found.train) + len(found.test) == 22
    assert "2 of 24 images cannot be read and were left out: " in found.notes[0]
    assert "class-1/003.jpg (" in found.notes[0]
    assert "class-0/001.jpg (" in found.notes[0]


def test_what_is_no_image_is_counted(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "class-0" / "list.txt").write_text("a list")
    (copied / "class-2" / "more").mkdir()
    picture(copied / "class-2" / "more" / "deep.PNG", (30, 30), 5)
    (copied / "class-2" / "more" / "Thumbs.db").write_text("")
    (copied / ".cache").mkdir()
    found = kdiga.load_data(copied, image_size=16)
    assert found.notes == (f"ignored, because they are not images: 2 (1 .txt, 1 .db) in {copied}",)
    assert len(found.train) + len(found.test) == 25
    assert found.train.num_classes == 3


def test_class_folders_that_do_not_match(folder, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(folder, tmp_path / part)
    (tmp_path / "val" / "class-2").rename(tmp_path / "val" / "class-3")
    with pytest.raises(InputError, match=r"class-2, class-3 \(class-2 only in .*train\)"):
        kdiga.load_data(tmp_path, image_size=16)
    (tmp_path / "val" / "class-3").rename(tmp_path / "val" / "class-2")
    (tmp_path / "train" / "class-3").mkdir()
    with pytest.raises(InputError, match=r"class folders without an image: class-3"):
        kdiga.load_data(tmp_path, image_size=16)


@pytest.mark.parametrize(("limit", "lazy"), [("MEMORY_LIMIT", True), ("FILE_LIMIT", True), (None, False)])
def test_the_rule_for_memory(folder, monkeypatch, limit, lazy):
    if limit is not None:
        monkeypatch.setattr(readings, limit, 100)
    found = kdiga.load_data(folder, image_size=16, workers=0)
    assert isinstance(found.train, FileSet) == isinstance(found.test, FileSet) == lazy
    assert isinstance(kdiga.load_data(folder, image_size=16, workers=0, in_memory=True).train, ImageSet)


def test_more_than_the_machine_holds_is_refused(folder, monkeypatch):
    monkeypatch.setattr("kdiga.data.file_set._memory", lambda: 1000)
    with pytest.raises(InputError, match=r"18 images of 16 pixels take .* GB and the machine has .*--examples"):
        on_disk(folder).load()


def test_images_of_other_sizes_need_a_size(tmp_path):
    for label in range(2):
        for number in range(10):
            picture(tmp_path / f"class-{label}" / f"{number}.png", (12, 12), 10 * label + number)
    data = kdiga.load_data(tmp_path, in_memory=False, workers=0).train
    assert isinstance(data, FileSet)
    assert data.image_size == 12
    assert torch.equal(data.load().images, kdiga.load_data(tmp_path, in_memory=True).train.images)
    for number in range(10):
        picture(tmp_path / "class-1" / f"{number}.png", (14, 14), number)
    with pytest.raises(InputError, match=r"class-1/\d.png' is 14x14.* data.image_size"):
        list(feed_of(data, batch_size=1, seed=0, augmentation=augmentation_by_name("none", 12), device=CPU).epoch(0))


def test_fingerprints_see_names_bytes_and_size(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    before = fingerprint_of_images(on_disk(folder))
    assert fingerprint_of_images(on_disk(copied)) == before, "it moves with the folder"
    assert fingerprint_of_images(on_disk(copied, image_size=12)) != before
    assert fingerprint_of_images(on_disk(copied).take(torch.arange(5))) != before
    data = on_disk(copied)
    path = data.items()[0].location
    assert isinstance(path, str)
    with open(path, "r+b") as file:  # noqa: PTH123
        file.seek(-3, os.SEEK_END)
        last = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert fingerprint_of_images(data) != before


def test_a_lost_process_is_told_and_replaced():
    with pytest.raises(DecodersEndedError, match=r"data.workers"):
        Job(os._exit, 1, workers=1).result()
    assert Job(abs, -3, workers=1).result() == 3


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import kdiga\n", "has no line `if __name__ == '__main__':`"),
        (None, "processes cannot import the script"),
        ("if __name__ == '__main__':\n    import kdiga\n", None),
    ],
)
def test_a_script_that_cannot_be_imported_again_decodes_alone(folder, script, reason, tmp_path, monkeypatch):
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    if script is not None:
        (tmp_path / "script.py").write_text(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(pools, "_POOLS", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    if reason is None:
        assert available_workers() == 1
        return
    with pytest.warns(KdigaWarning, match=reason) as found:
        assert len(kdiga.load_data(folder, image_size=16).train) > 0
    assert len(found) == 1
    with pytest.raises(InputError, match=reason):
        kdiga.load_data(folder, image_size=16, workers=1)


def test_what_is_begun_in_vain_is_cancelled(folder):
    data = on_disk(folder, workers=1)
    batches = iter(feed(data).epoch(0))
    next(batches)
    batches.close()
    pool = pools._POOLS[1]
    assert Job(abs, -1, workers=1).result() == 1
    assert not pool._pending_work_items


def test_workers(folder):
    assert 0 <= available_workers() <= 8
    with pytest.raises(InputError, match="workers was -1"):
        kdiga.load_data(folder, workers=-1)
    with pytest.raises(InputError, match="did you mean workers"):
        kdiga.load_data(folder, worker=1)
    with pytest.raises(InputError, match="image_size was 0"):
        kdiga.load_data(folder, image_size=0)


def test_decoding_processes_do_not_import_pytorch():
    """Each would need its memory, and a second or more to start."""
    command = "import sys, kdiga.decoding, kdiga.distributed.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
