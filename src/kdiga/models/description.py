"""A classifier in plain data and in lines, before it is trained or measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdiga.models.classifier import Classifier, count_parameters
from kdiga.models.input_layers import NORMALIZATIONS, Normalization

FEW = 12  # class indices that a line names


@dataclass(frozen=True)
class Description:
    """Properties of a loaded classifier."""

    model: Classifier

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data; ``given`` and ``network`` are channels and size of images."""
        spec, origin = self.model.spec, self.model.origin
        return {
            "source": origin.source,
            "architecture": spec.architecture,
            "parameters": count_parameters(self.model),
            "given": spec.takes[:2],
            "network": (spec.in_channels, spec.image_size),
            "mean": spec.mean,
            "std": spec.std,
            "outputs": spec.num_classes,
            "classes": spec.classes,
            "notes": origin.notes,
        }

    def lines(self) -> list[str]:
        """Return the description as short lines of "what: value"."""
        return [
            f"architecture: {self.model.spec.architecture}, {count_parameters(self.model):,} parameters",
            f"weights: {self.model.origin.source}",
            f"images: {self._images()}",
            f"normalisation: {self._normalization()}",
            f"classes: {self._classes()}",
            *(f"note: {note}" for note in self.model.origin.notes),
        ]

    def _images(self) -> str:
        spec = self.model.spec
        (channels, size), own = spec.takes[:2], (spec.in_channels, spec.image_size)
        given, network = f"{channels}x{size}x{size}", f"{own[0]}x{own[1]}x{own[1]}"
        if given == network:
            return f"{given}, as its network takes them"
        changes = ["resized"] * (size != own[1])
        changes += ["turned to colour"] * (channels < own[0])
        changes += ["turned to grey"] * (channels > own[0])
        return f"{given}, {' and '.join(changes)} for its network's {network}"

    def _normalization(self) -> str:
        layer = Normalization(self.model.spec.mean, self.model.spec.std)
        named = next((name for name, known in NORMALIZATIONS.items() if known == layer), None)
        if named == "none":
            return "none in front; the network gets pixels in [0, 1]"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (layer.mean, layer.std))
        return f"mean {mean}, std {std}{f' ({named})' if named else ''}"

    def _classes(self) -> str:
        outputs, classes = self.model.spec.num_classes, self.model.spec.classes
        if not classes:
            return f"{outputs}"
        first = ", ".join(map(str, classes[:FEW])) + ", ..." * (len(classes) > FEW)
        return f"{len(classes)} of the network's {outputs} outputs: {first}"
