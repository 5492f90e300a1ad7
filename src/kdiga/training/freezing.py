"""Frozen parameters of a run, such as the layers of a pre-trained student that should not change."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.errors import InputError, some
from kdiga.models.layer_depths import head_of

ALL_BUT_HEAD = "all but head"
SHOWN = 3  # parameters in a message


class FrozenParameters:
    """Freezes parameters of a model until :meth:`release`.

    Frozen parameters require no gradient. Frozen batch norm stays in eval mode, so that its running statistics do not
    change either.

    Args:
        model: Model to train without these parameters.
        patterns: Patterns of parameter names, with ``*`` for any text; "network." of a classifier can be left out.
            "all but head" means all parameters except those of the last layer.

    Raises:
        InputError: If no parameter has a pattern, or no parameter is left to train.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str]) -> None:
        names = frozen_names(model, patterns)
        self.parameters = [one for name, one in model.named_parameters() if name in names and one.requires_grad]
        if names and not any(one.requires_grad for name, one in model.named_parameters() if name not in names):
            raise InputError(
                f"freeze was {', '.join(patterns)}, which leaves no parameter of the student to train; freeze less."
            )
        self.norms = [] if not names else _norms(model, names)
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def freeze_statistics(self) -> None:
        """Put the frozen batch norms in eval mode, after the model was put in train mode."""
        for norm in self.norms:
            norm.eval()

    def release(self) -> None:
        """Make the parameters trainable again."""
        for parameter in self.parameters:
            parameter.requires_grad_()


def frozen_names(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters that have one of the patterns; see :class:`FrozenParameters`."""
    names = [name for name, _ in model.named_parameters()]
    found = set[str]()
    for pattern in patterns:
        if pattern == ALL_BUT_HEAD:
            found |= set(names) - head_of(model)
            continue
        meant = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"network.{pattern}")}
        if not meant:
            raise InputError(
                f"freeze was {pattern!r}, which is not a parameter of the student; its parameters are "
                f"{some(names, SHOWN)}. Write a name, a pattern such as {names[0].rsplit('.', 1)[0]}.*, or "
                f"{ALL_BUT_HEAD!r}."
            )
        found |= meant
    return frozenset(found)


def _norms(model: nn.Module, names: frozenset[str]) -> list[nn.Module]:
    norms = list[nn.Module]()
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        # A norm without parameters is frozen with the module that contains it.
        owner = name if any(True for _ in module.parameters()) else name.rpartition(".")[0]
        own = [one for one, _ in model.get_submodule(owner).named_parameters(prefix=owner)]
        if own and names.issuperset(own):
            norms.append(module)
    return norms
