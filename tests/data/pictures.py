"""Folders of small pictures, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, size: tuple[int, int], seed: int, *, darkest: int = 0) -> None:
    """Write a picture whose pixels a seed decides: smooth enough that JPEG keeps them."""
    coarse = darkest + np.random.default_rng(seed).integers(0, 100, (3, 3, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def class_folders(folder: Path, *, classes: int = 3, each: int = 8, suffix: str = "jpg") -> Path:
    """Write class folders of pictures of different sizes, each class brighter than the one before."""
    for label in range(classes):
        for number in range(each):
            size = (24 + 4 * (number % 3), 20 + 6 * (label % 3))
            picture(
                folder / f"class-{label}" / f"{number:03}.{suffix}", size, 1000 * label + number, darkest=50 * label
            )
    return folder
