"""The weights in an ONNX file, by the names of the exported network's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiga.errors import InputError, reason_of


def read_onnx_weights(path: Path) -> dict[str, Tensor]:
    """Return the initialisers of an ONNX graph by name.

    PyTorch's exporter transposes the weight of a linear layer and renames it (``onnx::MatMul_12``). Where the product
    is added to ``LAYER.bias``, the weight is transposed back and named ``LAYER.weight``.

    Raises:
        InputError: for a file that is not ONNX, or if the package is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise InputError(
            f"{str(path)!r} needs the package onnx, which is not installed: pip install 'kdiga[onnx]'."
        ) from None
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's errors share no base with onnx's
        raise InputError(f"{str(path)!r} is not a readable ONNX file ({str(error)[:100]}); export it again.") from None
    try:
        state = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    except Exception as error:  # contradictory sizes, types and bytes raise many kinds of errors
        raise InputError(
            f"{str(path)!r} holds weights that cannot be read ({reason_of(error)}); export it again."
        ) from None
    # protobuf returns names that are not UTF-8 as bytes
    if not all(isinstance(name, str) for name in state):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{str(path)!r} names its weights in bytes that are not text; export it again.")
    for product, bias in _linear_layers(graph, state):
        state[f"{bias.removesuffix('.bias')}.weight"] = state.pop(product).T.contiguous()
    return state


def _linear_layers(graph: Any, state: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Return the initialisers of each product followed by a sum: weight and bias."""
    weights = {
        node.output[0]: name
        for node in graph.node
        if node.op_type == "MatMul" and node.output
        for name in node.input
        if name in state and state[name].dim() == 2
    }
    layers = list[tuple[str, str]]()
    for node in graph.node:
        if node.op_type != "Add":
            continue
        product = next((weights[name] for name in node.input if name in weights), None)
        bias = next((name for name in node.input if name in state and name.endswith(".bias")), None)
        if product is not None and bias is not None and not product.endswith(".weight"):
            layers.append((product, bias))
    return list({product: (product, bias) for product, bias in layers}.values())
