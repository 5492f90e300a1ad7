"""The manifest of a store: everything that its signals depend on. A run that reads the store must need the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from kdiga.errors import InputError, check_at_least, check_known, some, words_of
from kdiga.io.safe_json_yaml import load_json
from kdiga.losses import Score

FORMAT = 1
FILE = "manifest.json"
SHOWN = 3  # differences in a message
MOST = 2**31  # bytes of a row
FILES = 2**20  # files of a store; each is checked when the store is opened
COUNTS = ("examples", "num_classes", "views", "downsample", "shard_examples", "batch_size")

RowType = Literal["fp32", "fp16", "int8"]
ROW_TYPES: tuple[RowType, ...] = ("fp32", "fp16", "int8")


def _noted() -> Any:
    """Return a field that is recorded and never compared: the signals hardly depend on it."""
    return field(metadata={"compared": False})


@dataclass(frozen=True)
class Manifest:
    """Everything that decides the numbers of a store, and three notes.

    The names of the fields are the keys of ``manifest.json``; a new name needs a new ``FORMAT``.

    Args:
        teacher: SHA-256 of the teacher's spec, tensor names, shapes and bytes.
        architecture: Teacher without its weights.
        data: SHA-256 of the training images and labels, without those held out for validation.
        examples: Number of examples; row ``i`` of a view is example ``i``.
        image_shape: Shape of an image, (channel, height, width).
        num_classes: Number of logits.
        seed: Seed of augmentation and validation split.
        augmentation: Fields of the augmentation, as text.
        views: Number of views of each example.
        gradient_of: Score that input gradients are taken of; None for logits alone.
        precision: Precision of the teacher, "fp32" or "bf16".
        dtype: Type of gradient rows: "fp32", or "fp16" or "int8" times one fp32 scale for a row. Logits are fp32.
        downsample: Side of the blocks of pixels that gradients are averaged over.
        shard_examples: Number of examples in a file.
        batch_size: Note: batch size of the teacher. At the same batch size fp32 rows equal the live teacher's bits.
        device: Note: device of the teacher.
        version: Note: version of kdiga.
        format: Format of the files.

    Raises:
        InputError: If numbers are below 1, there are too many files, a type is unknown, or images cannot be divided
            into the blocks.
    """

    teacher: str
    architecture: str
    data: str
    examples: int
    image_shape: tuple[int, int, int]
    num_classes: int
    seed: int
    augmentation: str
    views: int
    gradient_of: Score | None
    precision: str
    dtype: RowType
    downsample: int
    shard_examples: int
    batch_size: int = _noted()
    device: str = _noted()
    version: str | None = _noted()
    format: int = FORMAT

    def __post_init__(self) -> None:
        names = (*COUNTS, "seed", *(f"image_shape[{place}]" for place in range(3)))
        values = (*(getattr(self, name) for name in (*COUNTS, "seed")), *self.image_shape)
        wrong = [name for name, value in zip(names, values, strict=True) if type(value) is not int]
        if wrong or min(self.image_shape) < 1 or 4 * (math.prod(self.image_shape) + self.num_classes) >= MOST:
            problem = f"{wrong[0]} was not an integer" if wrong else f"{self.image_shape} is too large for a row"
            raise InputError(f"{problem}; give the sizes of images and classes.")
        if self.gradient_of is not None and not isinstance(self.gradient_of, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"gradient_of was {self.gradient_of!r:.40}; it is the name of a score, or null.")
        for name in COUNTS:
            check_at_least(1, **{name: getattr(self, name)})
        self._check_files()
        check_known("dtype", self.dtype, ROW_TYPES)
        height, width = self.image_shape[1:]
        if height % self.downsample or width % self.downsample:
            raise InputError(
                f"downsample was {self.downsample}; it must divide {height} and {width}, the size of the images."
            )

    def _check_files(self) -> None:
        files = self.views * -(-self.examples // self.shard_examples)
        if files > FILES:
            raise InputError(
                f"{self.views} views of {self.examples} examples would be {files} files; give fewer views, or more "
                "shard_examples."
            )

    @classmethod
    def compared(cls) -> tuple[str, ...]:
        """Return the names of the keys that must agree, in the order of messages."""
        return tuple(one.name for one in fields(cls) if one.metadata.get("compared", True))

    def wanted(self) -> dict[str, Any]:
        """Return the keys that must agree, with their values."""
        return {name: getattr(self, name) for name in self.compared()}

    def digest(self) -> str:
        """Return a short hash of the keys that must agree; every shard has it."""
        return hashlib.sha256(json.dumps(self.wanted(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, wanted: Mapping[str, Any]) -> list[str]:
        """Return the differences between the store and a run's needs, with both values.

        Args:
            wanted: Some or all of the keys. A run without gradients can read a store with gradients.
        """
        return [
            f"{name} is {_shown(getattr(self, name))} there and {_shown(value)} here"
            for name, value in wanted.items()
            if getattr(self, name) != value and not (name == "gradient_of" and value is None)
        ]

    def check(self, wanted: Mapping[str, Any], folder: Path, remedy: str) -> None:
        """Check that the store has what a run needs.

        Raises:
            InputError: If there are differences; the message has keys and both values.
        """
        differences = self.differences(wanted)
        if not differences:
            return
        if self.gradient_of is None and wanted.get("gradient_of") is not None:
            differences.insert(0, "it holds logits only and this method needs input gradients as well")
        shown = some(differences, SHOWN)
        raise InputError(f"the teacher cache in {str(folder)!r} does not fit this run: {shown}; {remedy}.")

    def to_json(self) -> str:
        """Return the manifest as text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a store, or None if there is none.

        Raises:
            InputError: If it is damaged, or has another format.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content = cast("dict[str, Any]", load_json(path))
            found = content["format"]
            if found == FORMAT:
                content["image_shape"] = tuple(content["image_shape"])
                return cls(**content)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise InputError(
                f"{str(path)!r} is not the manifest of a teacher cache ({words_of(error)}); fill it "
                "again with `kdiga cache RECIPE --overwrite`, or choose another cache.folder."
            ) from None
        raise InputError(
            f"the teacher cache in {str(folder)!r} does not fit this run: format is {found!r} there and {FORMAT} here; "
            "fill it again with `kdiga cache RECIPE --overwrite`, or choose another cache.folder."
        )


def _shown(value: object) -> str:
    text = repr(value)
    # The start of a hash is enough.
    return f"{text[:13]}..." if isinstance(value, str) and len(value) == 64 else text
