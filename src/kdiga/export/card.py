"""The model card: what a model is for, what it withstands, how that was measured, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kdiga.export.file_measurements import WORST
from kdiga.export.onnx_file import INPUT, INT8, INT8_FILE, ONNX, OUTPUT
from kdiga.export.safetensors_file import HUB, WEIGHTS
from kdiga.export.torch_program import PROGRAM
from kdiga.io.markdown import code, fenced, one_line, safe
from kdiga.models import ModelSpec
from kdiga.results.attack_names import attack_name
from kdiga.results.exports import FormatRecord, FormatTable
from kdiga.types import ThreatModel

_ONNX = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
images = np.random.rand(4, {shape}).astype(np.float32)  # pixels in [0, 1]
(logits,) = session.run(["{output}"], {{"{input}": images}})
"""
_PROGRAM = """import torch

model = torch.export.load("{file}").module()
logits = model(torch.rand(4, {shape}))  # pixels in [0, 1]
"""
_MODEL = """import torch
import kdiga

model = kdiga.load_model("{file}"){remark}
with torch.no_grad():
    logits = model(torch.rand(4, {shape}))  # pixels in [0, 1]
"""
_SNIPPETS = {
    ONNX.name: (_ONNX, ONNX.file),
    INT8: (_ONNX, INT8_FILE),
    PROGRAM.name: (_PROGRAM, PROGRAM.file),
    WEIGHTS.name: (_MODEL, WEIGHTS.file),
    HUB.name: (_MODEL, f"{HUB.file}/{WEIGHTS.file}"),
}
_FILTERS: dict[str, Any] = {
    "text": safe,
    "code": code,
    "one_line": one_line,
    "fenced": fenced,
    "numbers": lambda values: ", ".join(f"{value:.4g}" for value in values),
}


def snippet(name: str, takes: tuple[int, int, int], *, in_hub_folder: bool = False) -> str:
    """Return Python code that loads a format's file and runs it on random images; the result is in ``logits``.

    ``takes`` is as in :class:`kdiga.models.ModelSpec`; ``in_hub_folder`` is for code in the folder of the weights.
    """
    channels, size, _ = takes
    template, file = _SNIPPETS[name]
    remark = ""
    if name == HUB.name and in_hub_folder:
        file, remark = WEIGHTS.file, '  # after an upload: "hf-hub:ORG/NAME"'
    return template.format(file=file, shape=f"{channels}, {size}, {size}", input=INPUT, output=OUTPUT, remark=remark)


@dataclass(frozen=True)
class Number:
    """A measurement of the model in PyTorch by another command, over so many images, if known."""

    what: str
    value: str
    images: int | None
    source: str


@dataclass(frozen=True)
class CardOrigin:
    """The training of a model; "" for what is unknown, and for no teacher."""

    method: str = ""
    paper: str = ""
    teacher: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Card:
    """The content of a card."""

    name: str  # name of the model; spec, parameters (their number) and fingerprint are about its network
    spec: ModelSpec
    parameters: int
    fingerprint: str
    data: str  # name of the data set; class names are those of the outputs, in order
    class_names: Sequence[str]
    threat: ThreatModel  # threat model of the attacks
    # Measurements by format, as in ``export.json``, the model in PyTorch first.
    formats: Mapping[str, Mapping[str, Any]]
    numbers: Sequence[Number]  # measurements of the model itself by other commands
    left_out: Sequence[str]  # files of such measurements in its run that are of other weights or images
    origin: CardOrigin  # training of the model
    queries: int  # number of queries of Square
    command: str  # command that made the export; provenance is that of the export
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def text(self, *, only: str = "") -> str:
        """Return the card in Markdown; it shows how to load the format ``only``, all formats for ""."""
        environment = Environment(
            loader=PackageLoader("kdiga.export"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(_FILTERS)
        return environment.get_template("card.md").render(card=self, only=only, **self._figures(only))

    def _figures(self, only: str) -> dict[str, Any]:
        """Return what the template shows of the measurements."""
        channels, size, classes = self.spec.takes
        found = FormatTable({name: FormatRecord.model_validate(one) for name, one in self.formats.items()})
        rows = ([text + (f" ({small})" if small else "") for text, small in row] for row in found.rows)
        attacked = [name for name in found.attacks if name not in ("clean", WORST)]
        hardware, versions = self.provenance.get("hardware", {}), self.provenance.get("versions", {})
        return {
            "channels": channels,
            "size": size,
            "classes": classes,
            "table": [found.head, *([name, *row] for name, row in zip(self.formats, rows, strict=True))],
            "counts": found.images,
            "copies": "; ".join(f"{name} is {one['same_as']}" for name, one in self.formats.items() if one["same_as"]),
            "attacked": attacked,
            "attacks": ", ".join(sorted(map(attack_name, attacked))) or "no attack",
            "timed": bool(found.batches),
            "snippets": [
                (name, one["file"], snippet(name, self.spec.takes, in_hub_folder=bool(only)).rstrip())
                for name, one in self.formats.items()
                if one["file"] and only in ("", name)
            ],
            "hardware": f"{hardware.get('processor')}, {hardware.get('cores')} cores, "
            f"{hardware.get('accelerator') or 'no GPU'}",
            "date": str(self.provenance.get("date", ""))[:10],
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        }
