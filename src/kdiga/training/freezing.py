"""Parameters that a run leaves as they are: those of a pre-trained student that should keep what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.errors import InputError, some
from kdiga.models.layer_depths import head_of

ALL_BUT_HEAD = "all but head"
NAMED = 3  # parameters that a message names


class Frozen:
    """Holds part of a model still until it is released.

    Its parameters ask for no gradient. Batch norm among it stays in eval mode, for a layer that does not learn
    should not drift by its running statistics either.

    Args:
        model: to be trained but for this part.
        patterns: of parameter names, with ``*`` for anything; of a classifier with or without "network." in
            front. "all but head" is every parameter but those of the last layer.

    Raises:
        InputError: for a pattern that no parameter has, or where nothing would be left to train.
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

    def hold(self) -> None:
        """Put the frozen batch norms in eval mode, after the model was put in train mode."""
        for norm in self.norms:
            norm.eval()

    def release(self) -> None:
        """Let the parameters be trained again, as they were before."""
        for parameter in self.parameters:
            parameter.requires_grad_()


def frozen_names(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters that some patterns mean; see :class:`Frozen`."""
    names = [name for name, _ in model.named_parameters()]
    found = set[str]()
    for pattern in patterns:
        if pattern == ALL_BUT_HEAD:
            found |= set(names) - head_of(model)
            continue
        meant = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"network.{pattern}")}
        if not meant:
            raise InputError(
                f"freeze was {pattern!r}, which is no parameter of the student; its parameters are "
                f"{some(names, NAMED)}. Write a name, a pattern such as {names[0].rsplit('.', 1)[0]}.*, or "
                f"{ALL_BUT_HEAD!r}."
            )
        found |= meant
    return frozenset(found)


def _norms(model: nn.Module, names: frozenset[str]) -> list[nn.Module]:
    held = list[nn.Module]()
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        # One without parameters of its own goes with the module that it is part of.
        owner = name if any(True for _ in module.parameters()) else name.rpartition(".")[0]
        own = [one for one, _ in model.get_submodule(owner).named_parameters(prefix=owner)]
        if own and names.issuperset(own):
            held.append(module)
    return held
