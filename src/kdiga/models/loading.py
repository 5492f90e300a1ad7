"""One function from a name or a path to a model that maps images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.arguments import checked
from kdiga.errors import InputError
from kdiga.models.classifier import Classifier
from kdiga.models.imagenet import indices_of
from kdiga.models.input_layers import Normalization, normalization_by_name
from kdiga.models.registry import Shape, SourceRequest, source_of


@checked
def load_model(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    activation: str | None = None,
    normalization: str | Normalization | Sequence[Sequence[float]] | None = None,
    pretrained: bool = False,
    which: str = "best",
    architecture: str | None = None,
    matched: str = "name",
    classes: Sequence[int] | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    images: tuple[int, int, int] | None = None,
) -> Classifier:
    """Return a classifier in eval mode, from an architecture's name, a source's, a checkpoint or a run folder.

    Args:
        name_or_path: Name of an architecture that ``kdiga models`` lists; ``timm:NAME``, ``torchvision:NAME``,
            ``robustbench:DATASET/THREAT/NAME``, ``hf-hub:ORG/NAME``, ``file:PATH``, ``run:DIR``; ``zoo:NAME``, which
            comes with kdiga; your own ``python:package.module:factory`` or ``python:file.py:factory``, whose code
            runs; or the path of a checkpoint or of a run's folder.
        weights: Checkpoint for a named architecture. With ``pretrained``, a copy of the file to download; the source
            states its normalisation, size and classes.
        num_classes: Outputs of the network. By default those of the weights; of a fresh network 10.
        in_channels: Channels of the network's images, 1 grey, 3 colour. By default the weights'; of a fresh network 3.
        image_size: Height and width of the network's images in pixels. By default the weights'; of a fresh network
            32.
        activation: "relu", "silu", "gelu" or "softplus" in place of the architecture's own.
        normalization: Layer in front for pixels in [0, 1]: "none", "imagenet", "cifar10", "cifar10-per-image", "half"
            or ``[[mean, ...], [std, ...]]``. By default the weights'; "none" for a fresh network. It is required for
            weights of other code bases that do not contain it.
        pretrained: Whether to fetch the source's weights for the name; of own code, whether it loads its weights.
        which: "best" or "last", for a run folder.
        architecture: Architecture of ``file:PATH``, where the file does not state it.
        matched: "name", or "order" for a file that holds the architecture's tensors in their order under other
            names; shapes are checked.
        classes: Outputs of the network that are the logits, in their order: indices, or names of ImageNet classes
            (WordNet ids such as n01440764, or labels such as "tench") for a network of its 1,000.
        options: More arguments of the source, such as timm's ``patch_size``.
        images: Channels, size and number of classes of the model's images. A network without a fixed shape is built
            for them, and a trained one of another number of classes gets a new head, unless ``classes`` picks.

    Raises:
        InputError: for an unknown name, a missing or foreign file, weights of another architecture, weights that
            cannot be fetched, or an argument that contradicts the checkpoint.

    >>> load_model("cnn-4", in_channels=1, image_size=8).spec.num_classes
    10
    """
    given = str(name_or_path)
    if classes is not None and not classes:
        raise InputError("classes was empty; give at least two, or leave it out.")
    if images is not None and [type(one) for one in images] != [int] * 3:
        raise InputError(f"images was {images!r:.60}; it must be channels, size and number of classes, as (3, 32, 10).")
    request = SourceRequest(
        given,
        None if weights is None else Path(weights),
        num_classes,
        in_channels,
        image_size,
        activation,
        None if normalization is None else normalization_by_name(normalization),
        pretrained,
        which,
        architecture,
        matched,
        options or {},
        "" if classes is None else "names" if isinstance(classes[0], str) else "indices",
        None if images is None else Shape(*images),
    )
    source, name = source_of(given)
    model = source.load(request, name)
    if classes is None:
        return model
    channels, size, _ = model.spec.takes
    return model.fitted(channels=channels, size=size, classes=indices_of(classes, model.spec.num_classes))
