"""State dicts of other code bases, brought to the names of one network: prefixes, normalisers, duplicates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from kdiga.errors import InputError, unknown
from kdiga.models.normalization import Normalization

# DataParallel, torch.compile, wrappers that normalise, Lightning and our own classifier.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
# Buffers that hold a normalisation: Madry's robustness library, our own and RobustBench's.
NORMALIZERS = (
    ("normalizer.new_mean", "normalizer.new_std"),
    ("normalizer.mean", "normalizer.std"),
    ("normalize.mean", "normalize.std"),
    ("mu", "sigma"),
    ("mean", "std"),
)
ATTACKER = "attacker."  # the robustness library saves its model twice, once inside the attack
MATCHES = ("name", "order")
MOST_CHANNELS = 64  # of images; a longer buffer is no normalisation


class Tidied(NamedTuple):
    """A state dict by a network's names.

    Args:
        state: tensors by name.
        normalization: that the file holds, if it does.
        notes: what was done, a sentence each.
    """

    state: dict[str, Tensor]
    normalization: Normalization | None
    notes: tuple[str, ...]


def tidied(state: Mapping[str, Tensor], target: Mapping[str, Tensor], matched: str = "name") -> Tidied:
    """Bring a state dict to the names of a network.

    Prefixes are removed only where every tensor has them and the network's own names have not, so nothing is ever
    dropped but the second copy of a model inside Madry's attacker.

    Args:
        state: of the file.
        target: of the network.
        matched: "name", or "order" where the same tensors come in the same order under other names.

    Raises:
        InputError: for another ``matched``, or tensors that differ in number or shape where order is asked for.
    """
    if matched not in MATCHES:
        raise unknown("matched", matched, MATCHES)
    notes: list[str] = []
    names = _without_prefixes(dict(state), target, notes)
    inside = [name for name in names if name.startswith(ATTACKER)]
    if inside and len(inside) < len(names):
        notes.append(f"left out {len(inside)} tensors under {ATTACKER!r}, a second copy of the model")
        names = {name: value for name, value in names.items() if name not in inside}
    normalization, used = _normalization(names, target)
    if used:
        notes.append(f"normalisation read from {' and '.join(used)}")
        names = _without_prefixes({name: value for name, value in names.items() if name not in used}, target, notes)
    if matched == "order":
        names = in_order(names, target)
        notes.append(f"{len(names)} tensors matched by their order and shape, not by name, as asked")
    return Tidied(names, normalization, tuple(notes))


def _without_prefixes(state: dict[str, Tensor], target: Collection[str], notes: list[str]) -> dict[str, Tensor]:
    while True:
        prefix = next((one for one in PREFIXES if _all_start(state, one) and not _all_start(target, one)), None)
        if prefix is None:
            return state
        notes.append(f"prefix {prefix!r} removed")
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _all_start(names: Collection[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _normalization(
    state: Mapping[str, Tensor], target: Collection[str]
) -> tuple[Normalization | None, tuple[str, ...]]:
    for pair in NORMALIZERS:
        if all(name in state and name not in target and state[name].numel() <= MOST_CHANNELS for name in pair):
            mean, std = (tuple(round(float(value), 6) for value in state[name].flatten()) for name in pair)
            return Normalization(mean, std), pair
    return None, ()


def in_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a state dict the names of a network's, one after the other.

    Batch norm's step counters, which old files lack, take no part. Equal shapes are all that is checked: two tensors
    of one shape in another order would go unnoticed, so measure the model's accuracy afterwards.

    Raises:
        InputError: if they differ in number, or one in its shape; it names the first.
    """

    def counted(names: Mapping[str, Tensor]) -> list[str]:
        return [name for name in names if not name.endswith("num_batches_tracked")]

    given, wanted = counted(state), counted(target)
    if len(given) != len(wanted):
        raise InputError(
            f"the file holds {len(given)} tensors and the network {len(wanted)}, so they cannot be matched by order; "
            "name the architecture that the file was made for."
        )
    for number, (name, own) in enumerate(zip(given, wanted, strict=True), start=1):
        if state[name].shape != target[own].shape:
            raise InputError(
                f"matched by order, tensor {number} is {name} {tuple(state[name].shape)} in the file and {own} "
                f"{tuple(target[own].shape)} in the network; name the architecture that the file was made for."
            )
    return {own: state[name] for name, own in zip(given, wanted, strict=True)}
