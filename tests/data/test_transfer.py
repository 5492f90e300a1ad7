"""Copies to a GPU: all of a batch go through pinned memory, and no program waits for them. No GPU is needed."""

from __future__ import annotations

import pytest
import torch

import kdiga
from kdiga.data import FileSet, LoaderFeed, MixedFeed, augmentation_by_name, feed_of
from kdiga.data.mixed_set import MixedSet
from kdiga.data.transfer import to_device
from kdiga.distributed.batch_shards import WHOLE
from tests.data.pictures import class_folders

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def copies(monkeypatch):
    """Every tensor that is copied to CUDA, and whether its memory is pinned and nothing waits; it stays on the CPU."""
    seen, pinned, real = [], [], torch.Tensor.to

    def pin(tensor):
        pinned.append(tensor)
        return tensor

    def to(tensor, *args, **options):
        if CUDA not in (*args, *options.values()):
            return real(tensor, *args, **options)
        seen.append((tensor, any(one is tensor for one in pinned) and options.get("non_blocking", False)))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return seen


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = class_folders(tmp_path_factory.mktemp("pictures"))
    data = kdiga.load_data(folder, image_size=16, in_memory=False, workers=0).train
    assert isinstance(data, FileSet)
    return data


def batches_of(source, data, device):
    augmentation = augmentation_by_name("crop-flip", 16)
    if source == "files":
        return feed_of(data, batch_size=4, seed=3, augmentation=augmentation, device=device).epoch(1)
    if source == "mixed":
        mixed = MixedSet(data.to(device), data.to(device), 0.5)
        return MixedFeed(mixed, 4, 3, augmentation, share=WHOLE).epoch(1)
    return LoaderFeed(list(data.batches(4)), device).epoch(1)


@pytest.mark.parametrize("source", ["files", "mixed", "loader"])
def test_batches_are_copied_from_pinned_memory(source, files, copies):
    expected = list(batches_of(source, files, CPU))
    assert not copies
    found = list(batches_of(source, files, CUDA))
    assert len(copies) >= 2 * len(found)
    assert all(pinned for _, pinned in copies)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


def test_images_without_augmentation_are_copied_from_pinned_memory(files, copies):
    count = len(list(files.to(CUDA).batches(4)))
    assert [pinned for _, pinned in copies] == [True] * 2 * count


@pytest.mark.parametrize("source", ["files", "mixed", "loader"])
def test_rows_stay_on_the_cpu(source, files, copies):
    """A teacher cache reads them there."""
    for batch in batches_of(source, files, CUDA):
        assert not any(one is batch.index for one, _ in copies)


def test_only_copies_from_the_cpu_to_cuda_are_pinned(copies):
    values = torch.arange(3)
    assert to_device(values, CPU) is values
    assert not copies
    to_device(values, CUDA)
    assert [pinned for _, pinned in copies] == [True]
