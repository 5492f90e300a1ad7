"""ImageNet-1k's classes: the outputs of a network of 1,000 classes for the classes of some data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import cast

from kdiga.errors import InputError, nearest

CLASSES = 1000
_WORDNET = re.compile(r"n\d{8}")


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Return whether every name is the WordNet id of an ImageNet-1k class, such as n01440764."""
    return all(_WORDNET.fullmatch(name) for name in names) and all(name in _by_name() for name in names)


def indices_of(classes: Sequence[int] | Sequence[str], num_classes: int) -> tuple[int, ...]:
    """Return the outputs of a network for ``classes``.

    Args:
        classes: Indices, which are returned; or names: WordNet ids, or labels as timm lists them, complete or one of
            the parts between commas, in any case, with "_" for a space.
        num_classes: Outputs of the network.

    Raises:
        InputError: for an unknown or ambiguous name, or names and a network of another number of classes.
    """
    if all(isinstance(one, int) for one in classes):
        return tuple(cast("Sequence[int]", classes))
    if num_classes != CLASSES:
        raise InputError(
            f"the names of ImageNet's classes belong to a network of 1,000 outputs and this one has {num_classes}; "
            "give classes as a list of indices."
        )
    names = [str(name) for name in classes]
    found = {name: _by_name().get(_plain(name), ()) for name in names}
    for name, indices in found.items():
        if len(indices) == 1:
            continue
        if indices:
            raise InputError(f"{name!r} is {len(indices)} classes of ImageNet, {list(indices)}; give its WordNet id.")
        close = nearest(_plain(name), _by_name(), most=1)
        raise InputError(
            f"{name!r} is not a class of ImageNet-1k{f'; did you mean {close[0]!r}?' if close else '.'} Name the "
            "data's classes by WordNet id (n01440764) or label, or give classes as a list of indices."
        )
    return tuple(found[name][0] for name in names)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


@cache
def _by_name() -> dict[str, tuple[int, ...]]:
    """Return the indices of every name; a few labels, such as "crane", name two classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    found: dict[str, tuple[int, ...]] = {}
    for index in range(info.num_classes()):
        description = info.index_to_description(index)
        words = [_plain(word) for word in (description, *description.split(","))]
        for name in dict.fromkeys([info.index_to_label_name(index), *words]):
            found[name] = (*found.get(name, ()), index)
    return found
