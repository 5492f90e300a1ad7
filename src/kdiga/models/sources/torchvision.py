"""``torchvision:NAME``: torchvision's classifiers, fresh, pretrained, or with weights from a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from kdiga.errors import InputError, unknown
from kdiga.models.checkpoint import load_weights, read_checkpoint
from kdiga.models.classifier import Classifier, ModelSpec, WeightsOrigin
from kdiga.models.foreign import by_hand, fresh_or_filled, pretrained_spec, tidied, with_new_head
from kdiga.models.input_layers import Normalization
from kdiga.models.registry import ModelSource, SourceRequest, build, register_source, unknown_name

OUTPUTS = 1000
# With auxiliary classifiers, the output in train mode is a tuple, not logits.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
_SIZED = {"vit": "image_size", "maxvit": "input_size"}  # families with a fixed grid of patches


@register_source
class TorchVision(ModelSource):
    """torchvision's model zoo; a tag after a dot, as IMAGENET1K_V1, picks one of several pretrained weights."""

    prefix = "torchvision"
    form = "torchvision:NAME"
    brings_weights = False

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the architecture, or with ``pretrained`` torchvision's weights and their settings."""
        request.refuse("torchvision's names are architectures", "architecture", "activation")
        architecture = self._architecture(name)
        full = f"{self.prefix}:{architecture}"
        if not request.pretrained:
            return fresh_or_filled(request.spec(full, in_channels=3), request)
        weights = _weights(architecture, name.partition(".")[2] or "DEFAULT")
        transforms = weights.transforms()
        layer, size = Normalization(tuple(transforms.mean), tuple(transforms.std)), transforms.crop_size[0]
        spec = pretrained_spec(request, full, size=size, channels=3, outputs=OUTPUTS, normalization=layer)
        network, notes = _filled(spec, weights, request)
        origin = WeightsOrigin(f"torchvision's pretrained weights {weights}", trained=True, notes=notes)
        return with_new_head(Classifier(spec, network, origin).eval(), request.outputs(OUTPUTS), replace_head)

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the architecture."""
        import torchvision

        name = self._architecture(spec.name)
        if spec.in_channels != 3:
            raise InputError(
                f"torchvision's networks take 3 channels and in_channels was {spec.in_channels}; leave it out: grey "
                "images are turned to colour in front."
            )
        if spec.activation:
            raise InputError(f"torchvision's networks have their own activation; leave activation={spec.activation!r}.")
        options = _OPTIONS.get(name, {}) | dict(spec.options)
        if (family := name.partition("_")[0]) in _SIZED:
            size = spec.image_size
            options[_SIZED[family]] = size if family == "vit" else (size, size)
        try:
            return torchvision.models.get_model(name, weights=None, num_classes=spec.num_classes, **options)
        except Exception as error:  # for arguments that an architecture does not take, nearly every kind
            raise InputError(f"torchvision refused to build {name} from {spec}: {str(error)[:160]}") from error

    def names(self) -> Iterable[str]:
        """Return torchvision's classifiers."""
        import torchvision

        return torchvision.models.list_models(module=torchvision.models)

    def _architecture(self, name: str) -> str:
        architecture = name.partition(".")[0]
        if architecture not in self.names():
            raise unknown_name(self, architecture)
        return architecture


def _weights(architecture: str, tag: str) -> Any:
    import torchvision

    known = torchvision.models.get_model_weights(architecture)
    if tag not in known.__members__:
        raise unknown(f"weights of torchvision:{architecture}", tag, [one.name for one in known])
    return known[tag]


def _filled(spec: ModelSpec, weights: Any, request: SourceRequest) -> tuple[nn.Module, tuple[str, ...]]:
    network = build(spec).network
    if request.weights is not None:
        path = str(request.weights)
        checkpoint = read_checkpoint(request.weights)
        found = tidied(checkpoint.state, network.state_dict(), request.matched)
        state, notes = found.state, (f"read from {path!r}", *checkpoint.notes, *found.notes)
    else:
        path, notes = weights.url, ()
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:  # URLError is of this kind
            file = weights.url.rpartition("/")[2]
            raise InputError(
                f"{weights} could not be fetched ({str(error)[:120]}); {by_hand(weights.url, file)}"
            ) from error
    # Auxiliary classifiers are never run.
    state = {name: value for name, value in state.items() if not name.startswith(("aux1.", "aux2.", "AuxLogits."))}
    return network, notes + load_weights(network, state, path)


def replace_head(network: nn.Module, outputs: int) -> nn.Module:
    """Replace the last layer of 1,000 outputs, linear or a 1x1 convolution, by a fresh one."""
    heads = [
        (name, module)
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == OUTPUTS)
        or (isinstance(module, nn.Conv2d) and module.out_channels == OUTPUTS)
    ]
    if not heads:
        raise InputError(f"the network has no layer of {OUTPUTS} outputs to replace; give num_classes={OUTPUTS}.")
    name, head = heads[-1]
    new = (
        nn.Linear(head.in_features, outputs) if isinstance(head, nn.Linear) else nn.Conv2d(head.in_channels, outputs, 1)
    )
    network.set_submodule(name, new)
    return network
