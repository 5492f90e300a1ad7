"""torch.export: the network as a program of PyTorch operators in one ``.pt2`` file, which does not need kdiga.

It is differentiable, so white-box attacks run on it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from kdiga.errors import InputError
from kdiga.export.formats import Format, Logits, example_images, refusal, register
from kdiga.io.atomic_write import WriteError, replacing
from kdiga.models import Classifier
from kdiga.models.checkpoint import check_sums


def write_program(model: Classifier, path: Path) -> None:
    """Write a classifier, in eval mode on the CPU, as a program: any number of images to logits."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the exporter warns about its internals
            program = torch.export.export(model, (example_images(model),), dynamic_shapes=({0: Dim("batch")},))
            with replacing(path) as partial, partial.open("wb") as file:
                torch.export.save(program, file)
    except WriteError:
        raise
    except Exception as error:  # the exporter's errors have no common base class
        raise refusal("torch-export", model, error) from None


def read_program(path: Path) -> Logits:
    """Return the function of a program, without gradients.

    Raises:
        InputError: If PyTorch cannot read the file, or its bytes have changed since it was written.
    """
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True  # it logs the traceback of an error that it also raises
    try:
        check_sums(path)
        with warnings.catch_warnings(action="ignore"):
            module = torch.export.load(path).module()
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"{str(path)!r} is not a readable program ({str(error)[:160]}); export it again.") from None
    finally:
        logger.disabled = before

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return module(images.detach().cpu())

    return logits


PROGRAM = register(Format("torch-export", "model.pt2", "torch", write_program, read_program))
