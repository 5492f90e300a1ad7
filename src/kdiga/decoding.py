"""From the bytes of image files to arrays of pixels, without PyTorch, so that worker processes start at once.

The result depends on the file and on the numbers given with it, never on the process. This module stays outside
``kdiga.data``, which imports PyTorch.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdiga.errors import InputError, words_of

Location = str | tuple[str, int, int] | bytes
"""Location of an encoded image: a file, (file, offset, length) within an archive, or the bytes themselves."""

ATTEMPTS = 10
SMALLEST, LARGEST = 0.08, 1.0  # of the image's area
NARROWEST, WIDEST = 3 / 4, 4 / 3  # width over height
RESERVE = 2  # an image that is only made smaller is decoded to at least this many times its final size

UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class DecodeItem:
    """Location of one encoded image, and its name in messages."""

    location: Location
    name: str


@dataclass(frozen=True)
class Crops:
    """Random numbers of random resized crops, one row an image.

    Args:
        draws: Share of the area, aspect, left and top of each attempt, float64 (image, ATTEMPTS, 4), in [0, 1).
        mirrored: Whether to mirror each image, bool (image,).
    """

    draws: np.ndarray
    mirrored: np.ndarray

    def rows(self, start: int, stop: int) -> Crops:
        """Return some rows."""
        return Crops(self.draws[start:stop], self.mirrored[start:stop])


def decode(items: Sequence[DecodeItem], size: int | None, crops: Crops | None = None) -> np.ndarray:
    """Return images as uint8 (image, height, width, 3).

    Args:
        items: The encoded images.
        size: Height and width in pixels. The shorter side is resized to it and the middle cut out, which leaves
            images of this size unchanged; None takes square images of one size as they are.
        crops: Random crops, resized to ``size``, in place of the middle.

    Raises:
        InputError: for an image that cannot be read, or of another size where ``size`` is None.
    """
    pixels = list[np.ndarray]()
    for row, item in enumerate(items):
        try:
            # Pillow warns of odd metadata and palettes with transparency, which it can read.
            with warnings.catch_warnings(action="ignore"), Image.open(_source(item.location)) as opened:
                if crops is not None and size is not None:
                    found = _crop(opened, size, crops.draws[row], mirrored=bool(crops.mirrored[row]))
                else:
                    found = np.asarray(opened.convert("RGB") if size is None else _middle(opened, size))
        except UNREADABLE as error:
            raise _unreadable(item, error) from None
        if (pixels and found.shape != pixels[0].shape) or found.shape[0] != found.shape[1]:
            raise not_square(item, found.shape[1], found.shape[0])
        pixels.append(found)
    return np.stack(pixels)


def problems(items: Sequence[DecodeItem]) -> list[str | None]:
    """Return the problem of each image, None for one that can be read from its first byte to its last."""
    found = list[str | None]()
    for item in items:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(_source(item.location)) as opened:
                opened.draft("RGB", (1, 1))  # a JPEG is still decoded whole, only to fewer pixels
                opened.load()
            found.append(None)
        except UNREADABLE as error:
            found.append(words_of(error))
    return found


def not_square(item: DecodeItem, width: int, height: int) -> InputError:
    """Return the error for an image of another shape than asked for."""
    return InputError(
        f"{item.name!r} is {width}x{height}; the images must be square and of one size. "
        "Give data.image_size to resize and crop them."
    )


def size_of(item: DecodeItem) -> tuple[int, int]:
    """Return width and height, from the file's header.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(_source(item.location)) as opened:
            return opened.size
    except UNREADABLE as error:
        raise _unreadable(item, error) from None


def _unreadable(item: DecodeItem, error: Exception) -> InputError:
    return InputError(f"{item.name!r} cannot be read as an image ({words_of(error)}); repair or remove it.")


def crop_box(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a random crop of an image: the usual augmentation for ImageNet.

    The crop is the first of ten attempts that fits: an area uniform in [0.08, 1] of the image's, an aspect ratio
    log-uniform in [3/4, 4/3], a place uniform among those that fit (Szegedy et al. 2015). If none fits, it is the
    largest one in the middle with an aspect ratio in the range.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        draws: Random numbers of the attempts (ATTEMPTS, 4), in [0, 1).

    >>> crop_box(500, 400, np.tile([0.5, 0.5, 0.0, 0.99], (ATTEMPTS, 1)))
    (0, 71, 329, 329)
    """
    low, high = math.log(NARROWEST), math.log(WIDEST)
    for share, shape, across, down in draws.tolist():
        area = width * height * (SMALLEST + (LARGEST - SMALLEST) * share)
        aspect = math.exp(low + (high - low) * shape)
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(across * (width - wide + 1)), int(down * (height - tall + 1)), wide, tall
    wide = max(1, min(width, round(height * WIDEST)))
    tall = max(1, min(height, round(width / NARROWEST)))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def encoded(item: DecodeItem) -> bytes:
    """Return the bytes of the encoded image.

    Raises:
        InputError: if they cannot be read.
    """
    source = item.location
    try:
        if isinstance(source, str):
            return Path(source).read_bytes()
        return source if isinstance(source, bytes) else _member(*source)
    except OSError as error:
        raise InputError(f"{item.name!r} cannot be read ({error.strerror}); repair or remove it.") from None


def _member(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb") as archive:  # noqa: PTH123 (in a worker's inner loop)
        archive.seek(offset)
        return archive.read(length)


def _source(location: Location) -> str | io.BytesIO:
    if isinstance(location, bytes):
        return io.BytesIO(location)
    if isinstance(location, str):
        return location
    return io.BytesIO(_member(*location))


def _middle(opened: Image.Image, size: int) -> Image.Image:
    width, height = opened.size
    scale = RESERVE * size / min(width, height)
    if scale < 1:
        opened.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
    image = opened.convert("RGB")
    # The size before the draft decides, since the draft rounds the proportions.
    scale = size / min(width, height)
    wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (tall - size) // 2
    if image.size != (wide, tall):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _crop(opened: Image.Image, size: int, draws: np.ndarray, *, mirrored: bool) -> np.ndarray:
    width, height = opened.size
    left, top, wide, tall = crop_box(width, height, draws)
    # A JPEG can be decoded to a half, a quarter or an eighth of its size in a fraction of the time; here to no fewer
    # pixels than the result has.
    scale = min(1.0, size / min(wide, tall))
    opened.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
    image = opened.convert("RGB")
    across, down = image.size[0] / width, image.size[1] / height
    box = (left * across, top * down, (left + wide) * across, (top + tall) * down)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if mirrored else pixels
