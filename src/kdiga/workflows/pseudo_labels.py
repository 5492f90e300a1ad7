"""Extra training images that the teacher labels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from kdiga.data import DataSet, MixedSet
from kdiga.model_state import evaluating


def labelled_by(teacher: nn.Module, data: DataSet, device: torch.device) -> DataSet:
    """Return a data set whose extra images have the classes that a teacher sees in them.

    Args:
        teacher: moved to the device, otherwise left as found.
        data: with extra images; without, it is returned as it is.
        device: where the teacher answers.
    """
    if not isinstance(data.train, MixedSet):
        return data
    extra = data.train.extra
    teacher.to(device)
    with torch.no_grad(), evaluating(teacher):
        answers = [teacher(images).argmax(1).cpu() for images, _ in extra.to(device).batches()]
    return replace(data, train=replace(data.train, extra=replace(extra, labels=torch.cat(answers))))
