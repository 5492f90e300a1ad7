"""The logits of a model: what it returns may be a tensor, a dict, a tuple, a dataclass or an output object.

One rule finds the logits: a tensor is the logits; otherwise the entry or attribute named "logits"; otherwise the first
entry of a tuple or list; otherwise the only tensor of a dict or object. :class:`NamedOutput` names another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, fx, nn

from kdiga.errors import InputError

_CONVERTED: WeakSet[nn.Module] = WeakSet()
"""Models that failed on images of another floating-point type than their parameters."""


def logits_at(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return a model's logits at images.

    The model gets a copy that is not a leaf of the graph, so that a normalisation in place neither fails nor changes
    the caller's images. A model in bfloat16, for example, that does not take float32 images gets converted ones, and
    its logits have the images' type.

    Raises:
        InputError: If what the model returns has no logits, or if batch norm refuses a batch of one image.
    """
    try:
        if model not in _CONVERTED:
            return logits_of(model(images.clone()))
    except RuntimeError:
        if type_of(model) in (None, images.dtype):
            raise
    except ValueError as error:
        if len(images) != 1 or not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise InputError(
            "the batch held one image, which batch norm in train mode cannot normalise; give more, for example by "
            "DataLoader(..., drop_last=True)."
        ) from error
    logits = logits_of(model(images.to(type_of(model)))).to(images.dtype)
    _CONVERTED.add(cast("nn.Module", model))
    return logits


def type_of(model: object) -> torch.dtype | None:
    """Return the type of a module's first floating-point parameter; None without one."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((one.dtype for one in parameters if one.is_floating_point()), None)


def logits_of(returned: object, output: str | int = "logits") -> Tensor:
    """Return the logits of what a model returned, by the rule of this module.

    Args:
        returned: Result of a forward pass.
        output: Name or index of the entry or attribute with the logits.

    Raises:
        InputError: If no entry or attribute is a tensor of that name, and the rule finds none.
    """
    if isinstance(returned, Tensor | fx.Proxy):  # a proxy stands for a tensor while a model is traced
        return cast("Tensor", returned)
    named = _parts(returned)
    found = named.get(output)
    if found is None and output == "logits":
        tensors = [part for part in named.values() if isinstance(part, Tensor)]
        if isinstance(returned, tuple | list):
            found = next(iter(named.values()), None)
        elif len(tensors) == 1:
            found = tensors[0]
    if isinstance(found, Tensor):
        return found
    parts = ", ".join(map(repr, named)) or "no entry"
    raise InputError(
        f"the model returned {type(returned).__name__} with {parts}, and no tensor {output!r} in it; it must return "
        "logits, a tensor (batch, num_classes). Name the entry with kdiga.NamedOutput(model, NAME), or return logits "
        "only."
    )


def _parts(returned: object) -> dict[Any, Any]:
    """Return the entries and attributes of an output, by name or index."""
    if isinstance(returned, Mapping):
        return dict(cast("Mapping[Any, Any]", returned))
    parts: dict[Any, Any] = {}
    if isinstance(returned, tuple | list):
        parts = dict(enumerate(cast("Sequence[Any]", returned)))
        names: Sequence[str] = getattr(returned, "_fields", ())
    else:
        names = list(getattr(returned, "__dict__", ())) or list(getattr(returned, "__slots__", ()))
    return parts | {
        name: getattr(returned, name) for name in names if isinstance(getattr(returned, name, None), Tensor)
    }


class NamedOutput(nn.Module):
    """A model whose logits are a certain entry of what it returns.

    kdiga finds the logits of most models by itself: a tensor, an entry or attribute "logits", the first entry of a
    tuple, or the only tensor of a dict or object.

    Args:
        model: Module that maps images to a dict, tuple, dataclass or object.
        output: Key, attribute or index of the logits, float (batch, num_classes).

    >>> import torch
    >>> class TwoHeads(nn.Module):
    ...     def forward(self, images):
    ...         return {"coarse": images.mean((2, 3)), "fine": images.amax((2, 3))}
    >>> NamedOutput(TwoHeads(), "fine")(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, output: str | int) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            InputError: If the model does not return a tensor of that name.
        """
        return logits_of(self.model(images), self.output)
