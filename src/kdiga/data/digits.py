"""Scikit-learn's handwritten digits: 1,797 images of 8x8, part of the package, so nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kdiga.data.image_set import ImageSet, split
from kdiga.data.registry import DataSet, register

TEST_SHARE = 360 / 1797
SOURCE = "scikit-learn"
TEST_SEED = 0  # fixed: the test images are the same whatever the seed of a run


@register("digits", find=lambda _: SOURCE)
def load_digits(root: Path | None) -> DataSet:
    """Return 1,437 training and 360 test images; their 17 grey levels are spread over the bytes."""
    del root
    from sklearn.datasets import load_digits as embedded

    images, labels = embedded(return_X_y=True)
    pixels = np.round(np.asarray(images).reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    everything = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(np.asarray(labels, np.int64)), [str(digit) for digit in range(10)]
    )
    train, test = split(everything, TEST_SHARE, TEST_SEED)
    # Stored order follows the writers; shuffled once, so that "the first N" is a fair sample.
    test = test.take(torch.randperm(len(test), generator=torch.Generator().manual_seed(TEST_SEED)))
    return DataSet("digits", train, test, SOURCE)
