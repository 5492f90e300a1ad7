"""Data sets by name: found where they lie, checked, and refused with a way out."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

import kdiga
from kdiga.data import FileSet, ImageSet, cifar, feed_of, find_data, mnist, split
from kdiga.data.views import Augmentation
from kdiga.errors import InputError
from tests.data.pictures import class_folders


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data of the machine's own, and no network."""
    monkeypatch.delenv("KDIGA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path / "no-debian")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    return tmp_path


def idx(path: Path, array: np.ndarray, *, packed: bool) -> bytes:
    data = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)
    return data


def mnist_files(folder: Path, *, packed: bool) -> tuple[np.ndarray, str]:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (20, 28, 28), np.uint8)
    idx(folder / mnist.FILES[0], train, packed=packed)
    idx(folder / mnist.FILES[1], np.arange(20, dtype=np.uint8) % 10, packed=packed)
    idx(folder / mnist.FILES[2], train[:10], packed=packed)
    labels = idx(folder / mnist.FILES[3], np.arange(10, dtype=np.uint8), packed=packed)
    return train, hashlib.md5(labels).hexdigest()


def test_digits_are_the_same_on_every_call():
    one, two = kdiga.load_data("digits"), kdiga.load_data("digits")
    assert (len(one.train), len(one.test)) == (1437, 360)
    assert torch.equal(one.test.images, two.test.images)
    assert one.train.images.dtype == torch.uint8
    assert one.train.images.max() == 255
    rows = {bytes(image.numpy().tobytes()) for image in one.train.images}
    assert sum(image.numpy().tobytes() in rows for image in one.test.images) <= 1, "test images among the training ones"
    assert (torch.bincount(one.test.labels[:100], minlength=10) >= 4).all(), "the first 100 are a fair sample"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_in_its_places(nowhere, monkeypatch, packed, place):
    train, digest = mnist_files(nowhere / "data" / place, packed=packed)
    monkeypatch.setattr(mnist, "FASHION_TEST_LABELS", digest)
    data = kdiga.load_data("fashion-mnist", root=nowhere / "data")
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(train))
    assert data.train.labels.tolist() == [row % 10 for row in range(20)]
    assert data.train.classes[9] == "Ankle boot"


def test_order_of_the_places(nowhere, monkeypatch):
    """The given root before $KDIGA_DATA, that before Debian's folder."""
    for name in ("root", "environment", "no-debian"):
        _, digest = mnist_files(nowhere / name, packed=True)
    monkeypatch.setattr(mnist, "FASHION_TEST_LABELS", digest)
    assert "no-debian" in kdiga.load_data("fashion-mnist").source
    monkeypatch.setenv("KDIGA_DATA", str(nowhere / "environment"))
    assert "environment" in kdiga.load_data("fashion-mnist").source
    assert "root" in kdiga.load_data("fashion-mnist", root=nowhere / "root").source


def test_mnist_is_not_taken_for_fashion_mnist(nowhere):
    mnist_files(nowhere / "data", packed=True)
    assert len(kdiga.load_data("mnist", root=nowhere / "data").train) == 20
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        kdiga.load_data("fashion-mnist", root=nowhere / "data")


def test_finding_is_loadings_own_search_and_loads_nothing(nowhere, monkeypatch):
    for name in kdiga.available_data():
        assert find_data(name, root=nowhere) == ("scikit-learn" if name == "digits" else None)
    _, digest = mnist_files(nowhere / "data", packed=True)
    monkeypatch.setattr(mnist, "FASHION_TEST_LABELS", digest)
    assert (
        find_data("fashion-mnist", root=nowhere / "data")
        == kdiga.load_data("fashion-mnist", root=nowhere / "data").source
    )
    assert find_data("mnist", root=nowhere / "data") is None
    for file in cifar.MD5:
        (nowhere / cifar.BINARY).mkdir(exist_ok=True)
        (nowhere / cifar.BINARY / file).write_bytes(b"unread")
    assert find_data("cifar10", root=nowhere) == str(nowhere / cifar.BINARY)
    (nowhere / "cifar-100-python").mkdir()
    assert find_data("cifar100", root=nowhere) == str(nowhere)
    monkeypatch.setenv("KDIGA_DATA", str(nowhere))
    (nowhere / "imagenet/train").mkdir(parents=True)
    (nowhere / "imagenet/val").mkdir()
    assert find_data("imagenet") == str(nowhere / "imagenet")
    with pytest.raises(InputError, match="did you mean digits"):
        find_data("digit")


def test_missing_data_offline(nowhere):
    with pytest.raises(InputError, match=r"could not be downloaded .*\$KDIGA_DATA"):
        kdiga.load_data("cifar10")
    with pytest.raises(InputError, match="is not a folder"):
        kdiga.load_data("cifar10", root=nowhere / "not-there")


def test_damaged_idx_file(nowhere, monkeypatch):
    _, digest = mnist_files(nowhere / "data", packed=False)
    monkeypatch.setattr(mnist, "FASHION_TEST_LABELS", digest)
    whole = nowhere / "data" / mnist.FILES[0]
    whole.write_bytes(whole.read_bytes()[:-5])
    with pytest.raises(InputError, match="not a whole IDX file"):
        kdiga.load_data("fashion-mnist", root=nowhere / "data")


def test_damaged_packed_file(nowhere, monkeypatch):
    _, digest = mnist_files(nowhere / "data", packed=True)
    monkeypatch.setattr(mnist, "FASHION_TEST_LABELS", digest)
    packed = nowhere / "data" / f"{mnist.FILES[0]}.gz"
    for damaged in (packed.read_bytes()[:-9], b"not gzip"):
        packed.write_bytes(damaged)
        with pytest.raises(InputError, match=r"gz' cannot be unpacked \(.*\); fetch the data set again"):
            kdiga.load_data("fashion-mnist", root=nowhere / "data")


def test_cifar10_binary_batches_are_read_and_checked(nowhere, monkeypatch):
    folder = nowhere / cifar.BINARY
    folder.mkdir()
    rng = np.random.default_rng(1)
    digests = {}
    for name in cifar.MD5:
        rows = rng.integers(0, 256, (10_000, 3073), np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
        digests[name] = hashlib.md5(rows.tobytes()).hexdigest()
    monkeypatch.setattr(cifar, "MD5", digests)
    data = kdiga.load_data("cifar10", root=nowhere)
    assert (len(data.train), len(data.test), data.train.in_channels) == (50_000, 10_000, 3)
    last = np.frombuffer((folder / "test_batch.bin").read_bytes(), np.uint8).reshape(-1, 3073)[-1]
    assert data.test.labels[-1] == last[0]
    assert data.test.images[-1].flatten().tolist() == last[1:].tolist()
    (folder / "test_batch.bin").write_bytes(b"x" * 3073)
    with pytest.raises(InputError, match="has md5"):
        kdiga.load_data("cifar10", root=nowhere)


def picture(path: Path, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)


def test_a_folder_of_class_folders(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            picture(tmp_path / name / f"{number}.png", (12, 12), 100 * label + number)
    data = kdiga.load_data(tmp_path)
    assert data.train.classes == ["cat", "dog"]
    assert (len(data.train), len(data.test), data.train.image_size) == (13, 7, 12)  # by a hash of the names
    for part in (data.train, data.test):
        assert ((part.images[:, 0, 0, 0] >= 100).long() == part.labels).all()


def test_a_folder_with_train_and_val_of_any_size(tmp_path):
    for part in ("train", "val"):
        for label, name in enumerate(("a", "b", "c")):
            picture(tmp_path / part / name / "one.jpg", (20 + 9 * label, 31), 40 * label)
    data = kdiga.load_data(tmp_path, image_size=16)
    assert (len(data.train), len(data.test)) == (3, 3)
    assert data.train.images.shape == (3, 3, 16, 16)
    with pytest.raises(InputError, match="must be square and of one size"):
        kdiga.load_data(tmp_path)


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="holds 0 class folders"):
        kdiga.load_data(tmp_path)
    for name in ("a", "b"):
        for number in range(5):
            picture(tmp_path / name / f"{number}.png", (8, 8), 1)
    (tmp_path / "a" / "two.png").write_text("not an image")
    with pytest.raises(InputError, match=r"two.png.* cannot be read"):
        kdiga.load_data(tmp_path)
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "c")):
        picture(tmp_path / "parts" / part / name / "one.png", (8, 8), 1)
    with pytest.raises(InputError, match="different class folders: b, c"):
        kdiga.load_data(tmp_path / "parts")


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean fashion-mnist"):
        kdiga.load_data("fashon-mnist")
    with pytest.raises(InputError, match="for image files only"):
        kdiga.load_data("digits", image_size=32)


def test_split_is_by_seed_and_stratified(stripes):
    kept, cut = split(stripes, 0.25, seed=1)
    assert (len(kept), len(cut)) == (300, 100)
    assert torch.bincount(cut.labels).tolist() == [25, 25, 25, 25]
    assert torch.equal(split(stripes, 0.25, seed=1)[1].images, cut.images)
    assert not torch.equal(split(stripes, 0.25, seed=2)[1].images, cut.images)
    with pytest.raises(InputError, match="above 0 and below 1"):
        split(stripes, 1.5, seed=1)


def test_feed_is_repeatable_and_complete(stripes):
    feed = feed_of(stripes, batch_size=64, seed=3, augmentation=Augmentation(1), device=torch.device("cpu"))
    assert len(feed) == 6
    batches = list(feed.epoch(2))
    index = torch.cat([batch.index for batch in batches])
    assert len(index.unique()) == len(index) == 384
    assert all(batch.images.dtype == torch.float32 and batch.images.max() <= 1 for batch in batches)
    again = list(feed.epoch(2))
    assert all(torch.equal(one.images, two.images) for one, two in zip(batches, again, strict=True))
    assert not torch.equal(next(feed.epoch(3)).index, batches[0].index)


@pytest.fixture
def folder_of_files(tmp_path) -> FileSet:
    """Images of three classes on disk."""
    data = kdiga.load_data(class_folders(tmp_path, suffix="png"), image_size=8, in_memory=False, workers=0).train
    assert isinstance(data, FileSet)
    return data


def test_image_set_checks_itself():
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2])
    with pytest.raises(InputError, match="renumber them from 0"):
        ImageSet(images, labels, ("a", "b"))
    with pytest.raises(InputError, match=r"shape \(2,\) for 3 images"):
        ImageSet(images, labels[:2], ("a", "b"))
    with pytest.raises(InputError, match="the set has no image"):
        ImageSet(images[:0], torch.tensor([]), ("a", "b"))
    with pytest.raises(InputError, match="the set has no image"):
        ImageSet.of(images[:0], labels[:0])
    with pytest.raises(InputError, match="must be in"):
        ImageSet(images.float() + 2, labels, ("a", "b", "c"))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32, torch.uint16, torch.int64])
def test_labels_of_any_integer_type_are_stored_as_int64(kind, folder_of_files):
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2]).to(kind)
    for data in (
        ImageSet(images, labels, "abc"),
        ImageSet.of(images, labels),
        replace(folder_of_files.take(slice(3)), labels=labels, classes="abc"),
    ):
        assert data.labels.dtype == torch.int64
        assert data.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0, 0.6]), "labels were torch.float32; they must be integers"),
        (torch.tensor([False, True, True]), "labels were torch.bool; they must be integers"),
        (torch.tensor([[0], [1], [0]]), r"labels had shape \(3, 1\) for 3 images"),
        (torch.eye(3, dtype=torch.int64), r"labels had shape \(3, 3\) for 3 images"),
        (torch.tensor(1), r"labels had shape \(\) for 3 images"),
    ],
)
def test_other_labels_are_refused_at_once(labels, message, folder_of_files):
    with pytest.raises(InputError, match=message):
        ImageSet(torch.zeros(3, 1, 4, 4), labels, "abc")
    with pytest.raises(InputError, match=message):
        replace(folder_of_files.take(slice(3)), labels=labels)


def test_moments(stripes):
    mean, std = stripes.moments()
    pixels = stripes.images.float() / 255
    assert mean[0] == pytest.approx(float(pixels.mean()), abs=1e-3)
    assert std[0] == pytest.approx(float(pixels.std()), abs=1e-3)


@pytest.mark.skipif(not mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist(monkeypatch):
    monkeypatch.delenv("KDIGA_DATA", raising=False)
    data = kdiga.load_data("fashion-mnist")
    assert (len(data.train), len(data.test), data.train.image_size) == (60_000, 10_000, 28)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
