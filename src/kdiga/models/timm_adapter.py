"""Any timm architecture as ``timm:NAME``."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import timm
from torch import nn

from kdiga.errors import InputError, unknown
from kdiga.models.registry import ACTIVATIONS, ModelSpec


def build_timm(spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    """Build ``timm:NAME`` with the spec's classes and channels, and its image size where the model has one.

    Raises:
        InputError: for an unknown name, arguments that the model does not take, or weights that
            could not be fetched.
    """
    name = spec.name.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    options: dict[str, Any] = {"num_classes": spec.num_classes, "in_chans": spec.in_channels}
    if spec.activation:
        options["act_layer"] = ACTIVATIONS[spec.activation]
    try:
        # Transformers have a fixed grid of patches and take img_size; convolutional networks refuse it.
        try:
            return timm.create_model(name, pretrained=pretrained, img_size=spec.image_size, **options)
        except TypeError:
            return timm.create_model(name, pretrained=pretrained, **options)
    except (URLError, OSError) as error:
        raise InputError(
            f"the pretrained weights of {name} could not be fetched ({error}); download them by hand and give "
            "weights=FILE."
        ) from error
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"timm refused to build {name} from {spec}: {error}") from error
