"""``timm:NAME``: every architecture of timm, fresh, pretrained, or with weights of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from kdiga.errors import InputError, reason_of
from kdiga.models.foreign import fresh_or_filled, with_weights
from kdiga.models.normalization import Normalization
from kdiga.models.registry import ACTIVATIONS, Classifier, ModelSpec, WeightsOrigin
from kdiga.models.source import ModelRequest, ModelSource, register_source, unknown_name

# Arguments of timm's that name files or say how to load, not what a network is like; options may come out of a file.
RESERVED = {
    "model_name",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
}


@register_source
class Timm(ModelSource):
    """PyTorch Image Models; a tag after a dot picks one of several pretrained weights."""

    prefix = "timm"
    form = "timm:NAME"
    brings_weights = False

    def load(self, request: ModelRequest, name: str) -> Classifier:
        """Return the architecture, or with ``pretrained`` timm's weights and what timm says of them."""
        request.refuse("timm's names are architectures", "architecture")
        self._check(name)
        if not request.pretrained:
            spec = request.spec(request.name)
            return fresh_or_filled(spec, request.weights, given=request.given, matched=request.matched)
        settings = pretrained_settings(name)
        spec = pretrained_spec(request, request.name, settings)
        if request.weights is not None:
            layer = Normalization(tuple(settings["mean"]), tuple(settings["std"]))
            model = with_weights(spec, request.weights, given=request.given, matched=request.matched, own=layer)
        else:
            network = create(name, spec, pretrained=True)
            model = Classifier(spec, network, WeightsOrigin(f"timm's pretrained weights {name}", trained=True)).eval()
        return with_outputs(model, request.outputs(settings["num_classes"]))

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the architecture with the spec's classes and channels, and its image size where it has one."""
        self._check(spec.name)
        return create(spec.name, spec)

    def names(self) -> Iterable[str]:
        """Return timm's architectures."""
        import timm

        return timm.list_models()

    def _check(self, name: str) -> None:
        import timm

        if not timm.is_model(name):
            raise unknown_name(self, name)


def create(name: str, spec: ModelSpec, *, pretrained: bool = False) -> nn.Module:
    """Have timm build a network.

    Args:
        name: for timm, which may be "hf-hub:ORG/NAME" or "local-dir:FOLDER".
        spec: of the network.
        pretrained: with weights.

    Raises:
        InputError: for arguments that the model does not take, or weights that could not be fetched.
    """
    import timm

    refused = sorted(RESERVED & spec.options.keys())
    if refused:
        raise InputError(f"options of {name} were {', '.join(refused)}; give what its architecture takes and no more.")
    options: dict[str, Any] = {"num_classes": spec.num_classes, "in_chans": spec.in_channels, **spec.options}
    if spec.activation:
        options["act_layer"] = ACTIVATIONS[spec.activation]
    try:
        # Transformers have a fixed grid of patches and take img_size; convolutional networks refuse it.
        try:
            return timm.create_model(name, pretrained=pretrained, img_size=spec.image_size, **options)
        except TypeError:
            return timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:  # URLError and the Hub's errors are of this kind
        raise InputError(_by_hand(name, error)) from error
    except (
        TypeError,
        RuntimeError,
        AssertionError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise InputError(f"timm refused to build {name} from {spec}: {reason_of(error, 160)}") from error


def pretrained_settings(name: str) -> dict[str, Any]:
    """Return what timm says of pretrained weights: input size (channels, height, width), classes, mean and std.

    Raises:
        InputError: if it has none for the name.
    """
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None or not config.has_weights:
        tagged = [one for one in timm.list_pretrained() if one.partition(".")[0] == name.partition(".")[0]]
        others = f"; it has {', '.join(tagged[:4])}" if tagged else ""
        raise InputError(f"timm has no pretrained weights for {name}{others}. Give weights=FILE, or leave pretrained.")
    return {"input_size": config.input_size, "num_classes": config.num_classes, "mean": config.mean, "std": config.std}


def pretrained_spec(request: ModelRequest, name: str, settings: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a pretrained network with all its outputs: what was given, else what its settings say."""
    channels, size, _ = settings["input_size"]
    own = {"in_channels": channels, "image_size": size, "num_classes": settings["num_classes"]}
    own |= {"mean": tuple(settings["mean"]), "std": tuple(settings["std"])}
    return replace(request, num_classes=None).spec(name, **own)


def with_outputs(model: Classifier, outputs: int) -> Classifier:
    """Return a classifier of one of timm's networks, with a new head where it has another number of outputs."""
    trained = model.spec.num_classes
    if outputs == trained:
        return model
    network: Any = model.network
    network.reset_classifier(outputs)
    note = f"a new head of {outputs} classes, untrained, in place of the weights' {trained}"
    origin = replace(model.origin, new_head=True, notes=(*model.origin.notes, note))
    return Classifier(replace(model.spec, num_classes=outputs), network, origin).eval()


def _by_hand(name: str, error: Exception) -> str:
    import timm

    reason = f"the pretrained weights of {name} could not be fetched ({reason_of(error, 160)}); "
    config = None if ":" in name else timm.get_pretrained_cfg(name)
    if config is None:
        return f"{reason}check the file."
    place = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    file = "model.safetensors" if config.hf_hub_id else str(config.url).rpartition("/")[2]
    return (
        f"{reason}download {file} from {place} by hand and give its path beside pretrained: weights: {file}, on the "
        f"command line --weights {file} --normalization pretrained."
    )
