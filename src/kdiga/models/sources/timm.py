"""``timm:NAME``: every architecture of timm, fresh, pretrained, or with weights from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from kdiga.errors import InputError, reason_of
from kdiga.models.classifier import ACTIVATIONS, Classifier, ModelSpec, WeightsOrigin
from kdiga.models.foreign import by_hand, fresh_or_filled, pretrained_spec, with_new_head, with_weights
from kdiga.models.input_layers import Normalization
from kdiga.models.registry import ModelSource, SourceRequest, register_source, unknown_name

# Arguments of timm that name files or control loading, not the network; options may come from a file.
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

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the architecture, or with ``pretrained`` timm's weights and their settings."""
        request.refuse("timm's names are architectures", "architecture")
        self._check(name)
        if not request.pretrained:
            return fresh_or_filled(request.spec(request.name), request)
        settings = pretrained_settings(name)
        spec = spec_of_settings(request, request.name, settings)
        if request.weights is not None:
            layer = Normalization(tuple(settings["mean"]), tuple(settings["std"]))
            model = with_weights(spec, request.weights, given=request.given, matched=request.matched, own=layer)
        else:
            network = create(name, spec, pretrained=True)
            model = Classifier(spec, network, WeightsOrigin(f"timm's pretrained weights {name}", trained=True)).eval()
        return with_new_head(model, request.outputs(settings["num_classes"]), replace_head)

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the architecture with the spec's classes and channels, and its image size where that is fixed."""
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
    """Build a network with timm, whose ``name`` may be "hf-hub:ORG/NAME" or "local-dir:FOLDER".

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
        raise InputError(_not_fetched(name, error)) from error
    except Exception as error:  # for arguments that an architecture does not take, nearly every kind
        raise InputError(f"timm refused to build {name} from {spec}: {reason_of(error, 160)}") from error


def pretrained_settings(name: str) -> dict[str, Any]:
    """Return timm's settings of pretrained weights: input size (channels, height, width), classes, mean and std."""
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


def spec_of_settings(request: SourceRequest, name: str, settings: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a pretrained network with all its outputs: given values, else those of its settings."""
    channels, size, _ = settings["input_size"]
    layer, outputs = Normalization(tuple(settings["mean"]), tuple(settings["std"])), settings["num_classes"]
    return pretrained_spec(request, name, size=size, channels=channels, outputs=outputs, normalization=layer)


def replace_head(network: Any, outputs: int) -> nn.Module:
    """Give one of timm's networks a fresh head."""
    network.reset_classifier(outputs)
    return network


def _not_fetched(name: str, error: Exception) -> str:
    import timm

    reason = f"the pretrained weights of {name} could not be fetched ({reason_of(error, 160)}); "
    config = None if ":" in name else timm.get_pretrained_cfg(name)
    if config is None:
        return f"{reason}check the file."
    if config.hf_hub_id:
        return reason + by_hand(
            f"model.safetensors from https://huggingface.co/{config.hf_hub_id}", "model.safetensors"
        )
    return reason + by_hand(str(config.url), str(config.url).rpartition("/")[2])
