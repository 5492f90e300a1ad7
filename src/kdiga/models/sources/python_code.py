"""``python:package.module:factory`` or ``python:path/file.py:factory``: own architectures.

Such a name runs code. So only a name that the caller gives is accepted, on the command line, in a recipe or in
:func:`kdiga.load_model`; a checkpoint or run folder that states one is refused until its code is named again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdiga.errors import InputError, reason_of
from kdiga.models.checkpoint import OF_FILE, tensors_of
from kdiga.models.classifier import Classifier, ModelSpec, WeightsOrigin
from kdiga.models.foreign import fresh_or_filled
from kdiga.models.registry import ModelSource, SourceRequest, build, register_source

_NAMED: dict[str, Callable[..., Any]] = {}
"""The factories that the caller named in this process."""


@register_source
class PythonCode(ModelSource):
    """A class or function of the caller's code that returns a module from images in [0, 1] to logits."""

    prefix = "python"
    form = "python:PACKAGE.MODULE:FACTORY"
    brings_weights = False

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the network of the factory: with the weights of a file, its own ("pretrained"), or fresh ones."""
        request.refuse("it names its own code", "architecture")
        _NAMED[name] = _imported(name)
        spec = request.spec(request.name)
        if not request.pretrained or request.weights is not None:
            return fresh_or_filled(spec, request)
        model, again = build(spec).eval(), tensors_of(build(spec))
        if not all(torch.equal(value, again[key]) for key, value in tensors_of(model).items()):
            raise InputError(
                f"{request.name} returns fresh weights, different ones at each call; give weights=FILE (--weights), or "
                "let the code load its weights."
            )
        model.origin = WeightsOrigin(f"the code {request.name}", trained=True)
        return model

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return what the factory returns for the spec's classes, channels, size and options, as far as it takes them.

        Raises:
            InputError: If the caller did not name the factory, or it takes other options or no activation, or returns
                no module.
        """
        if spec.name not in _NAMED:
            raise InputError(
                f"a file or run folder names the code python:{spec.name}, which runs only if you name it; give "
                f"python:{spec.name} as the model and the file as its weights (weights=, --weights)."
            )
        factory = _NAMED[spec.name]
        given = {name: getattr(spec, name) for name in ("num_classes", "in_channels", "image_size")}
        if spec.activation:
            given["activation"] = spec.activation
        try:
            accepted = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):
            accepted = ()
        if not any(one.kind is one.VAR_KEYWORD for one in accepted):
            names = {one.name for one in accepted}
            if spec.activation and "activation" not in names:
                raise InputError(f"python:{spec.name} takes no activation; leave activation={spec.activation!r}.")
            given = {name: value for name, value in given.items() if name in names}
            if strange := sorted(spec.options.keys() - names):
                raise InputError(
                    f"python:{spec.name} does not take {', '.join(strange)}; accepted options: "
                    f"{', '.join(sorted(names - given.keys())) or 'none'}."
                )
        try:
            network = factory(**given, **spec.options)
        except TypeError as error:
            raise InputError(
                f"python:{spec.name} could not be called with {', '.join(given) or 'no argument'} "
                f"({reason_of(error)}); give its other arguments as options, or defaults."
            ) from error
        if not isinstance(network, nn.Module):
            raise InputError(f"python:{spec.name} returned {type(network).__name__}; it must return a torch.nn.Module.")
        return network


def hash_of_code(name: str) -> str:
    """Return the hash of the file of a factory that the caller named; "" if it has none."""
    file = getattr(sys.modules.get(getattr(_NAMED.get(name), "__module__", "")), "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _imported(name: str) -> Callable[..., Any]:
    """Return the factory of a name, from an installed package, the current folder or a file."""
    where, colon, factory = name.rpartition(":")
    if not colon or not where or not factory:
        raise InputError(
            f"model 'python:{name}' names no factory; give python:package.module:factory or python:file.py:factory."
        )
    try:
        module = _file_module(Path(where)) if where.endswith(".py") else _named_module(where)
        found: Any = module
        for part in factory.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(
            f"model 'python:{name}' could not be imported ({reason_of(error)}); give python:package.module:factory, "
            "importable from here, or python:file.py:factory."
        ) from error
    if not callable(found):
        raise InputError(f"python:{name} is {type(found).__name__}; it must be a class or function.")
    return found


def _named_module(name: str) -> Any:
    # The command line runs without the current folder in Python's path.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _file_module(path: Path) -> Any:
    path = path.resolve(strict=True)
    name = f"{OF_FILE}{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up
    spec.loader.exec_module(module)
    return module
