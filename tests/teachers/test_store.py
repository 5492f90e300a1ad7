"""The store on disk: what is damaged, foreign, half written or too large is told, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sys
import threading
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiga.data import Augmentation, ImageSet
from kdiga.errors import InputError
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.teachers import fill as fill_module
from kdiga.teachers.fill import TeacherSource, discard_damaged, fill
from kdiga.teachers.store import StoreFullError
from kdiga.types import TeacherSignal


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store by name, without its locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def times(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name + path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.npy")
    }


@pytest.fixture
def filled(filler, tmp_path):
    """A store of 2 views in 4 shards each."""
    return filler.fill(tmp_path / "store").store


def test_files(filled):
    found = contents(filled.folder)
    shards = {f"view-{view}/{number:05d}" for view in (0, 1) for number in range(4)}
    assert set(found) == {"manifest.json"} | {f"{name}{suffix}" for name in shards for suffix in (".npy", ".json")}
    assert all(len(found[f"{one.name}.npy"]) == filled.bytes_of(one) for one in filled.shards)
    rows = np.load(filled.path(filled.shards[3]))
    assert rows.shape == (60,)
    assert rows.dtype.names == ("logits", "gradient")
    assert json.loads(found["manifest.json"])["batch_size"] == 20


def flip(path: Path, position: int = -30) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty_record(path: Path) -> None:
    path.with_suffix(".json").write_text("{}")


def from_another_store(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"store": "0" * 16}))


DAMAGE = {
    "a bit in the rows": (flip, "does not match its checksum"),
    "a bit in the header": (lambda path: flip(path, 20), "does not match its checksum"),
    "truncated": (cut, r"has \d+ bytes and should have \d+"),
    "rows gone": (Path.unlink, r"is missing \(00002.npy\)"),
    "record emptied": (empty_record, "has a damaged record"),
    "a file of another store": (from_another_store, "belongs to another store"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_noticed_and_repaired(case, filler, filled):
    damage, message = DAMAGE[case]
    before, stamps = contents(filled.folder), times(filled.folder)
    shard = filled.shards[6]
    damage(filled.path(shard))
    with pytest.raises(InputError, match=rf"view-1/00002\.npy' {message}.*kdiga cache RECIPE"):
        CachedTeacher.open(filled.folder)
    store = Store.create(filled.folder, filled.manifest)
    assert [one for one, _ in discard_damaged(store)] == [shard]
    fill(store, filler.source())
    assert contents(filled.folder) == before
    after = times(filled.folder)
    assert [name for name in stamps if after[name] != stamps[name]] == ["00002.npyview-1"]


def test_a_missing_record_means_not_complete(filled):
    (filled.folder / "view-0/00001.json").unlink()
    with pytest.raises(
        InputError, match=r"not complete: 7 of 8 shards are there; `kdiga cache RECIPE` adds the others"
    ):
        CachedTeacher.open(filled.folder)


def test_no_store_and_no_manifest(filled, tmp_path):
    with pytest.raises(InputError, match=r"no teacher cache is in .*kdiga cache RECIPE"):
        CachedTeacher.open(tmp_path / "none")
    for text in ("", "{", "[]", '{"format": 1}', '{"format": 1, "image_shape": 3}'):
        (filled.folder / "manifest.json").write_text(text)
        with pytest.raises(InputError, match="is not the manifest of a teacher cache"):
            CachedTeacher.open(filled.folder)


def other(manifest: Manifest, key: str) -> object:
    """A value that the key could have and has not."""
    value = getattr(manifest, key)
    special = {"dtype": "int8", "gradient_of": "probability", "image_shape": (3, 8, 8), "downsample": 2}
    return special.get(key, value + 1 if isinstance(value, int) else f"other {value}"[:64])


def test_every_key_is_compared_but_three_notes():
    names = {one.name for one in fields(Manifest)}
    assert names - set(Manifest.compared()) == {"batch_size", "device", "version"}


@pytest.mark.parametrize("key", Manifest.compared())
def test_a_mismatch_names_key_and_values(key, filled):
    """When filling and when reading, for every key there is; a new one cannot be forgotten."""
    there, here = getattr(filled.manifest, key), other(filled.manifest, key)
    before = contents(filled.folder)
    wanted = replace(filled.manifest, **{key: here})
    for check in (
        lambda: Store.create(filled.folder, wanted),
        lambda: filled.manifest.check(wanted.wanted(), filled.folder, "fill one"),
    ):
        with pytest.raises(InputError) as error:
            check()
        assert f"{key} is " in str(error.value)
        for value in (there, here):
            assert repr(value)[:12] in str(error.value)
        assert len(str(error.value).splitlines()) == 1
    assert contents(filled.folder) == before
    # The same from the other side: a manifest on disk that says something else.
    saved = json.loads(before["manifest.json"])
    (filled.folder / "manifest.json").write_text(json.dumps(saved | {key: here}))
    with pytest.raises(InputError, match=f"{key} is "):
        Store.create(filled.folder, filled.manifest)


def test_overwrite_replaces_a_store_and_nothing_else(filler, filled):
    (filled.folder / "mine.txt").write_text("keep")
    (filled.folder / "view-1/notes.json").write_text("keep")
    new = replace(filled.manifest, views=1)
    store = Store.create(filled.folder, new, overwrite=True)
    assert len(store.missing()) == 4
    fill(store, filler.source())
    assert CachedTeacher.open(filled.folder).store.manifest == new
    assert (filled.folder / "mine.txt").read_text() == "keep"
    assert [path.name for path in (filled.folder / "view-1").iterdir()] == ["notes.json"]


def test_a_store_of_gradients_goes_on_for_a_method_that_needs_none(filler, filled):
    store = Store.create(filled.folder, replace(filled.manifest, gradient_of=None))
    assert store.manifest == filled.manifest


def test_a_full_disk_loses_nothing(filler, tmp_path, monkeypatch):
    whole = contents(filler.fill(tmp_path / "whole").store.folder)
    store = Store.create(tmp_path / "store", filler.manifest())
    sync, room = os.fsync, [5]

    def full(descriptor: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFullError, match=r"No space left.*are saved. Make room, and the same command continues"):
        fill(store, filler.source())
    monkeypatch.undo()
    assert len(store.missing()) == 6
    assert not list(store.folder.rglob("*.partial"))
    # The third shard's rows came through and its record did not, so it does not count.
    stamps = {name: stamp for name, stamp in times(store.folder).items() if not name.startswith("00002")}
    assert len(stamps) == 2
    fill(store, filler.source())
    assert contents(store.folder) == whole
    assert {name: times(store.folder)[name] for name in stamps} == stamps


def test_a_file_system_that_refuses_for_real(filler, tmp_path):
    store = Store.create(tmp_path / "store", filler.manifest())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.bytes_of(store.shards[3]) + 1000, hard))
    try:
        with pytest.raises(StoreFullError, match="disk is full"):
            fill(store, filler.source())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(store.folder.rglob("*.partial"))
    fill(store, filler.source())
    CachedTeacher.open(store.folder)


def test_a_folder_that_cannot_be_written(filler, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written.*choose another cache.folder"):
        Store.create(tmp_path / "file", filler.manifest())


def test_a_teacher_that_is_not_finite(filler, tmp_path):
    store, source = Store.create(tmp_path, filler.manifest()), filler.source()

    def broken(batch):
        signal = source.teach(batch)
        return TeacherSignal(signal.logits, signal.input_gradient * float("inf"))

    with pytest.raises(InputError, match="not finite"):
        fill(store, replace(source, teach=broken))
    assert len(store.missing()) == 8
    assert not list(store.folder.rglob("*.partial"))


def test_several_fill_one_store_and_each_shard_is_written_once(filler, tmp_path):
    whole = contents(filler.fill(tmp_path / "whole").store.folder)
    written, failures = [], []

    def work() -> None:
        try:
            store = Store.create(tmp_path / "shared", filler.manifest())
            fill(store, source, lambda name, done, total: written.append(name))
        except BaseException as error:
            failures.append(error)

    source = filler.source()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(written) == sorted(shard.name for shard in filler.fill(tmp_path / "shared").store.shards)
    assert contents(tmp_path / "shared") == whole


def test_a_shard_that_another_finished_meanwhile_is_not_written_again(filler, filled, monkeypatch):
    shard = filled.shards[2]
    record = filled.path(shard).with_suffix(".json")
    content, stamps = record.read_bytes(), times(filled.folder)
    record.unlink()

    @contextmanager
    def held_late(folder, name):
        record.write_bytes(content)  # by the other, between our look and our lock
        yield True

    monkeypatch.setattr(fill_module, "file_lock", held_late)
    fill_module.fill(filled, filler.source(), lambda *told: pytest.fail("written"))
    assert times(filled.folder) == stamps


def test_leftovers_of_a_killed_process_are_replaced(filler, filled):
    before = contents(filled.folder)
    for suffix in (".npy", ".json"):
        (filled.folder / f"view-1/00003{suffix}").unlink()
    (filled.folder / "view-1/00003.npy.partial").write_bytes(b"half")
    store = Store.open(filled.folder)
    assert [shard.name for shard in store.missing()] == ["view-1/00003"]
    fill(store, filler.source())
    assert contents(filled.folder) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_in_the_size_of_the_data_set(filler, tmp_path):
    def peak_growth(examples: int) -> int:
        """Fill and read once through; return by how many bytes memory grew, the maps of files aside."""
        images = torch.zeros(examples, 3, 16, 16, dtype=torch.uint8)
        data = ImageSet(images, torch.zeros(examples, dtype=torch.long), ("a",))
        manifest = replace(
            filler.manifest(),
            examples=examples,
            image_shape=(3, 16, 16),
            num_classes=1,
            batch_size=100,
            shard_examples=1000,
        )

        def teach(batch):
            return TeacherSignal(torch.zeros(len(batch.images), 1), torch.zeros_like(batch.images))

        store = Store.create(tmp_path / str(examples), manifest)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts afresh
        before = memory("VmRSS")
        fill(store, TeacherSource(data, Augmentation(), teach))
        growth = memory("VmHWM") - before
        anonymous = memory("RssAnon")
        for start in range(0, examples, 100):
            store.rows(0, np.arange(start, start + 100))
        shutil.rmtree(store.folder)
        return max(growth, memory("RssAnon") - anonymous)

    peak_growth(1000)  # whatever is loaded at first use
    rows = 16000 * 3 * 16 * 16 * 4
    assert peak_growth(16000) < rows / 4


def memory(kind: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024
