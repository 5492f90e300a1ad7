"""torch.export: the network as a program of PyTorch operators in one ``.pt2`` file, which does not need kdiga.

It is differentiable, so white-box attacks run on it.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from kdiga.errors import InputError, some
from kdiga.export.formats import Format, Logits, example_images, refusal, register
from kdiga.io.atomic_write import WriteError, replacing
from kdiga.io.safe_json_yaml import parse_json
from kdiga.models import Classifier
from kdiga.models.checkpoint import check_sums

LIBRARIES = (".so", ".dll", ".dylib", ".cubin", ".pkl", ".pickle")
EXPRESSIONS = ("expr_str", "hint_expr_str")
SIZE = re.compile(
    r"(?:[\d\s+\-*/(),<>=!&|~.]|'[su]\d+'|\b(?:[su]\d+|Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|"
    r"Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|oo|int_oo|positive|nonnegative|"
    r"integer|True|False)\b)*"
)
ARITHMETIC = "add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|getitem|and_|or_"
OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims?|higher_order|quantized|quantized_decomposed)\.\w+(?:\.\w+)?|torch\.sym_\w+|"
    rf"_operator\.(?:{ARITHMETIC})|math\.\w+"
)


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


def _without_code(path: Path) -> io.BytesIO:
    """Return the bytes of a program, which :func:`torch.export.load` can then read without running code of the file.

    It would unpickle anything, load compiled libraries, evaluate symbolic sizes as Python, and call any function.

    Raises:
        InputError: If the file contains code, or may contain it.
    """
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        names = parts.namelist()
        refused = [name for name in names if name.endswith(LIBRARIES) or "custom_obj" in name or "aotinductor" in name]
        if len({name.casefold() for name in names}) < len(names):
            refused.append("two parts of one name")
        for name in names:
            if name.endswith(".json"):
                refused += _unsafe_values(parse_json(parts.read(name).decode()))
            elif name.endswith(".pt"):
                torch.load(io.BytesIO(parts.read(name)), weights_only=True)  # torch.export.load falls back to less
    if refused:
        raise InputError(
            f"{str(path)!r} may run code when it is read ({some(refused, 3)}), which is refused; export it again."
        )
    return io.BytesIO(content)


def _unsafe_values(value: Any, key: str = "") -> list[str]:
    """Return the parts of a program's description that would be unpickled or evaluated as arbitrary code."""
    if isinstance(value, dict):
        target = value.get("target")
        if isinstance(target, str) and "inputs" in value and not OPERATOR.fullmatch(target):
            return [f"the operator {target[:40]!r}"]
        return [found for name, part in value.items() for found in _unsafe_values(part, name)]
    if isinstance(value, list):
        return [found for part in value for found in _unsafe_values(part, key)]
    if key == "use_pickle" and value:
        return ["a pickled tensor"]
    if isinstance(value, str) and key in EXPRESSIONS and not SIZE.fullmatch(value):
        return [f"the size {value[:40]!r}"]
    return []


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
            module = torch.export.load(_without_code(path)).module()
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
