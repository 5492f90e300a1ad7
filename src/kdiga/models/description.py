"""A classifier in plain data and in lines, before it is trained or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdiga.models.classifier import Classifier, count_parameters
from kdiga.models.input_layers import NORMALIZATIONS, Normalization

FEW = 12  # class indices that a line names


@dataclass(frozen=True)
class Description:
    """Properties of a loaded classifier."""

    source: str  # origin of the weights, in words
    architecture: str  # name of the architecture
    parameters: int  # number of parameters
    given: tuple[int, int]  # channels and size of the classifier's images
    network: tuple[int, int]  # channels and size of its network's images
    mean: tuple[float, ...]  # mean per channel, subtracted from pixels in [0, 1]
    std: tuple[float, ...]  # standard deviation per channel, a divisor
    outputs: int  # number of the network's outputs
    classes: tuple[int, ...]  # outputs that are the logits; () is all
    notes: Sequence[str]  # changes that loading made to fit the weights

    @classmethod
    def of(cls, model: Classifier) -> Description:
        """Describe a classifier."""
        spec = model.spec
        channels, size, _ = spec.takes
        return cls(
            model.origin.source,
            spec.architecture,
            count_parameters(model),
            (channels, size),
            (spec.in_channels, spec.image_size),
            spec.mean,
            spec.std,
            spec.num_classes,
            spec.classes,
            model.origin.notes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the description as short lines of "what: value"."""
        return [
            f"architecture: {self.architecture}, {self.parameters:,} parameters",
            f"weights: {self.source}",
            f"images: {self._images()}",
            f"normalisation: {self._normalization()}",
            f"classes: {self._classes()}",
            *(f"note: {note}" for note in self.notes),
        ]

    def _images(self) -> str:
        given, network = (f"{channels}x{size}x{size}" for channels, size in (self.given, self.network))
        if given == network:
            return f"{given}, as its network takes them"
        changes = ["resized"] * (self.given[1] != self.network[1])
        changes += ["turned to colour"] * (self.given[0] < self.network[0])
        changes += ["turned to grey"] * (self.given[0] > self.network[0])
        return f"{given}, {' and '.join(changes)} for its network's {network}"

    def _normalization(self) -> str:
        layer = Normalization(self.mean, self.std)
        named = next((name for name, known in NORMALIZATIONS.items() if known == layer), None)
        if named == "none":
            return "none in front; the network gets pixels in [0, 1]"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}{f' ({named})' if named else ''}"

    def _classes(self) -> str:
        if not self.classes:
            return f"{self.outputs}"
        first = ", ".join(map(str, self.classes[:FEW])) + ", ..." * (len(self.classes) > FEW)
        return f"{len(self.classes)} of the network's {self.outputs} outputs: {first}"
