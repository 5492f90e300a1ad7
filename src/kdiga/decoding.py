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
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from kdiga.errors import InputError, words_of

Location = str | tuple[str, int, int] | bytes
"""Location of an encoded image: a file, (file, offset, length) within an archive, or the bytes themselves."""

Resize = Literal["crop", "pad", "stretch"]

ATTEMPTS = 10
SMALLEST, LARGEST = 0.08, 1.0  # of the image's area
NARROWEST, WIDEST = 3 / 4, 4 / 3  # width over height
RESERVE = 2  # an image that is only made smaller is decoded to at least this many times its final size

WIDER = 65535 / 255  # a 16-bit value is this many times its 8-bit value
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its orientation in EXIF; 1 is upright."""
ON_ITS_SIDE = 5  # smallest orientation with width and height exchanged

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


def decode(
    items: Sequence[DecodeItem], size: int | None, crops: Crops | None = None, fit: Resize = "crop"
) -> np.ndarray:
    """Return images as uint8 (image, height, width, 3).

    Args:
        items: The encoded images.
        size: Height and width in pixels; images of this size stay unchanged. None takes square images of one size as
            they are.
        crops: Random crops, resized to ``size``, in place of the whole or its middle.
        fit: "crop" resizes the shorter side and cuts out the middle, "pad" resizes the longer side and adds black
            borders, "stretch" changes the proportions.

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
                    found = np.asarray(_upright(opened) if size is None else _resized(opened, size, fit))
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
                _check_range(opened)
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


def header_of(item: DecodeItem) -> tuple[int, int, bool]:
    """Return width and height of the upright image, and whether its pixels have 16 bits, from the file's header.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(_source(item.location)) as opened:
            return *_upright_size(opened), opened.mode.startswith("I")
    except UNREADABLE as error:
        raise _unreadable(item, error) from None


def _unreadable(item: DecodeItem, error: Exception) -> InputError:
    return InputError(f"{item.name!r} cannot be read as an image ({words_of(error)}); repair or remove it.")


def _check_range(opened: Image.Image) -> None:
    """Check that the range of the pixels is known.

    Raises:
        ValueError: For floating-point numbers, and for integers of 32 bits, which Pillow would clip to [0, 255].
    """
    # Pillow opens a 16-bit PNG or PGM with "I" in some versions.
    if opened.mode == "F" or (opened.mode == "I" and opened.format not in ("PNG", "PPM")):
        kind = "floating-point numbers" if opened.mode == "F" else "integers of 32 bits"
        raise ValueError(f"its pixels are {kind}, whose range is not known; save it with 8 or 16 bits per pixel")


def _upright(opened: Image.Image) -> Image.Image:
    """Return an image in 8-bit colour, turned as EXIF says; 16-bit grey is scaled, not clipped."""
    _check_range(opened)
    turn = TURNS.get(_orientation(opened))
    if opened.mode.startswith("I"):
        pixels = np.asarray(opened).astype(np.float64) / WIDER
        image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    else:
        image = opened.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _upright_size(opened: Image.Image) -> tuple[int, int]:
    width, height = opened.size
    return (height, width) if _orientation(opened) >= ON_ITS_SIDE else (width, height)


def _orientation(opened: Image.Image) -> int:
    if opened.format == "TIFF":  # Pillow turns it
        return 1
    try:
        found = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except (*UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError):
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


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
    if isinstance(location, str):
        return location
    content = location if isinstance(location, bytes) else _member(*location)
    if not content:
        raise ValueError("it is empty")
    return io.BytesIO(content)


def _resized(opened: Image.Image, size: int, fit: Resize) -> Image.Image:
    if fit == "crop":
        return _middle(opened, size)
    width, height = _upright_size(opened)
    longer = max(width, height)
    wide, tall = (size, size) if fit == "stretch" else (max(1, round(size * side / longer)) for side in (width, height))
    if (scale := RESERVE * max(wide / width, tall / height)) < 1:
        _draft(opened, scale)
    image = _upright(opened)
    if image.size != (wide, tall):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    framed = Image.new("RGB", (size, size))
    framed.paste(image, ((size - wide) // 2, (size - tall) // 2))
    return framed


def _middle(opened: Image.Image, size: int) -> Image.Image:
    width, height = _upright_size(opened)
    scale = RESERVE * size / min(width, height)
    if scale < 1:
        _draft(opened, scale)
    image = _upright(opened)
    # The size before the draft decides, since the draft rounds the proportions.
    scale = size / min(width, height)
    wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (tall - size) // 2
    if image.size != (wide, tall):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _draft(opened: Image.Image, scale: float) -> None:
    opened.draft("RGB", (math.ceil(opened.size[0] * scale), math.ceil(opened.size[1] * scale)))


def _crop(opened: Image.Image, size: int, draws: np.ndarray, *, mirrored: bool) -> np.ndarray:
    width, height = _upright_size(opened)
    left, top, wide, tall = crop_box(width, height, draws)
    # A JPEG can be decoded to a half, a quarter or an eighth of its size in a fraction of the time; here to no fewer
    # pixels than the result has.
    scale = min(1.0, size / min(wide, tall))
    _draft(opened, scale)
    image = _upright(opened)
    across, down = image.size[0] / width, image.size[1] / height
    box = (left * across, top * down, (left + wide) * across, (top + tall) * down)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if mirrored else pixels
