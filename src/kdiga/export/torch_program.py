"""torch.export: the network as a program of PyTorch operators in one ``.pt2`` file, which needs no code of ours.

It can be differentiated, so white-box attacks run on it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from kdiga.errors import InputError
from kdiga.export.formats import Format, Logits, refusal, register
from kdiga.export.onnx_file import example_images
from kdiga.io.atomic_write import WriteError, replacing
from kdiga.models import Classifier
from kdiga.models.checkpoint import check_sums


def write_program(model: Classifier, path: Path) -> None:
    """Write a classifier as a program: pixels in [0, 1] in, logits out, any number of images.

    Args:
        model: in eval mode, on the CPU.
        path: of the file; replaced at once or not at all.

    Raises:
        InputError: if the network does something that cannot be traced.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own workings
            program = torch.export.export(model, (example_images(model),), dynamic_shapes=({0: Dim("batch")},))
            with replacing(path) as partial, partial.open("wb") as file:
                torch.export.save(program, file)
    except WriteError:
        raise
    except Exception as error:  # the exporter's errors have no common base, and any of them means one thing here
        raise refusal("torch-export", model, error) from None


def read_program(path: Path) -> Logits:
    """Return the function of a program, without gradients.

    Raises:
        InputError: if PyTorch cannot read the file, or its bytes are not those that were written.
    """
    try:
        check_sums(path)
        with warnings.catch_warnings(action="ignore"), _quiet():
            module = torch.export.load(path).module()
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"{str(path)!r} is no readable program ({str(error)[:160]}); export it again.") from None

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return module(images.detach().cpu())

    return logits


@contextmanager
def _quiet() -> Generator[None]:
    """Keep PyTorch from logging the traceback of an error that it raises as well."""
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


PROGRAM = register(Format("torch-export", "model.pt2", "torch", write_program, read_program))
