"""Feeds: an epoch can be entered anywhere, and processes share every batch."""

from __future__ import annotations

import pytest
import torch

from kdiga.data import ImageSetFeed, LoaderFeed, augmentation_by_name, feed_of
from kdiga.data.batches import PendingBatch
from kdiga.distributed.batch_shards import Share
from kdiga.errors import InputError
from kdiga.model_state import seeded

CPU = torch.device("cpu")


def feed(stripes, share=Share(), batch_size=60):  # noqa: B008
    augmentation = augmentation_by_name("crop-flip", 8)
    return feed_of(stripes, batch_size=batch_size, seed=3, augmentation=augmentation, device=CPU, share=share)


def loader(stripes, **options):
    pairs = torch.utils.data.TensorDataset(stripes.images.float() / 255, stripes.labels)
    return torch.utils.data.DataLoader(pairs, batch_size=60, **options)


def same(one, two) -> bool:
    return (
        torch.equal(one.images, two.images)
        and torch.equal(one.labels, two.labels)
        and torch.equal(one.index, two.index)
        and one.view == two.view
    )


def joined(parts):
    return [torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels", "index")]


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_an_epoch_goes_on_from_any_batch(stripes, start):
    whole = list(feed(stripes).epoch(5))
    rest = list(feed(stripes).epoch(5, start=start))
    assert len(whole) == 6
    assert len(rest) == 6 - start
    assert all(same(one, two) for one, two in zip(whole[start:], rest, strict=True))


def test_earlier_batches_are_not_made(stripes, monkeypatch):
    made = []
    monkeypatch.setattr(PendingBatch, "result", lambda self: made.append(self.index))
    assert list(feed(stripes).epoch(0, start=4)) == [None, None]
    assert len(made) == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_joined_are_the_batch_of_one_process(stripes, count):
    shares = [feed(stripes, Share(rank, count)).epoch(2) for rank in range(count)]
    for batch, *parts in zip(feed(stripes).epoch(2), *shares, strict=True):
        assert {len(part.labels) for part in parts} == {60 // count}
        wanted = (batch.images, batch.labels, batch.index)
        assert all(torch.equal(one, two) for one, two in zip(wanted, joined(parts), strict=True))


def test_a_batch_that_cannot_be_shared_is_refused(stripes):
    with pytest.raises(InputError, match="60 examples cannot be shared equally by 7 processes"):
        feed(stripes, Share(0, 7))
    with pytest.raises(InputError, match="400 examples"):
        ImageSetFeed(stripes, 500, 0, augmentation_by_name("none", 8), share=Share(1, 3))
    with pytest.raises(InputError, match="rank was 2 of 2"):
        Share(2, 2)


def test_a_loader_goes_on_from_any_batch(stripes):
    """The order is drawn when the epoch is entered, so the rest of it is the same."""
    source = LoaderFeed(loader(stripes, shuffle=True), CPU)
    with seeded(1):
        whole = list(source.epoch(4))
    with seeded(1):
        rest = source.epoch(4, start=2)
    assert all(same(one, two) for one, two in zip(whole[2:], rest, strict=True))


def test_a_loader_reads_what_comes_before_at_once(stripes):
    """Random streams can be put back between entering the epoch and its first batch."""
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)

    class Sized:
        __iter__ = staticmethod(batches)
        __len__ = staticmethod(lambda: 5)

    rest = LoaderFeed(Sized(), CPU).epoch(0, start=3)
    assert read == [0, 1, 2]
    assert next(rest).index.tolist() == [12, 13, 14, 15]


def test_a_loader_is_shared(stripes):
    shares = [LoaderFeed(loader(stripes), CPU, Share(rank, 2)).epoch(0) for rank in range(2)]
    for batch, *parts in zip(LoaderFeed(loader(stripes), CPU).epoch(0), *shares, strict=True):
        wanted = (batch.images, batch.labels, batch.index)
        assert all(torch.equal(one, two) for one, two in zip(wanted, joined(parts), strict=True))
    uneven = LoaderFeed(loader(stripes), CPU, Share(0, 3)).epoch(0, start=6)  # the last batch has 40
    with pytest.raises(InputError, match="40 examples cannot be shared"):
        next(uneven)
