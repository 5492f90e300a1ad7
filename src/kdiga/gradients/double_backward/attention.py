"""Scaled dot-product attention: fused kernels in the first two passes, the second derivative in closed form.

Per head, with ``S = scale Q K'`` plus mask, ``P = softmax(S)`` and ``O = P V``, the first derivative is

- ``gV = P' gO``, ``gP = gO V'``, ``gS = P * (gP - delta)`` with ``delta = rowsum(P * gP)``,
- ``gQ = scale gS K``, ``gK = scale gS' Q``.

For the cotangents ``vQ``, ``vK``, ``vV`` of these three:

- ``M = scale (vQ K' + Q vK')``, ``Mc = M - rowsum(P * M)``, ``Gc = gP - delta``, ``N = P * Mc``,
- ``T = Mc * Gc + gO vV'``, ``U = P * (T - rowsum(P * T))``; a constant of a row of ``T`` would not change ``U``,
- ``dL/d(gO) = N V + P vV``, ``dL/dV = N' gO``,
- ``dL/dQ = scale (U K + gS vK)``, ``dL/dK = scale (U' Q + gS' vQ)``.

All but ``dL/dK`` and ``dL/dV`` are by rows of ``Q``. So blocks of rows need little memory for any number of
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import autocast_dtype, last_derivative, without_autocast

aten = torch.ops.aten

BLOCK_ELEMENTS = 1 << 21
"""Elements of one score matrix in a block, (batch * heads, rows, tokens): about six of them exist at a time."""


class Masking(NamedTuple):
    """What changes the scores besides queries and keys: an additive or boolean mask, causality, and the scale."""

    mask: Tensor | None
    causal: bool
    scale: float

    def probabilities(self, scores: Tensor, examples: slice, rows: slice) -> Tensor:
        """Return the softmax of the masked scores; as in PyTorch's kernels, zeros for a row without a key."""
        scores = self.apply(scores, examples, rows)
        p = scores.softmax(-1)
        return p if self.mask is None else p.masked_fill_(scores.amax(-1, keepdim=True) == -math.inf, 0)

    def apply(self, scores: Tensor, examples: slice, rows: slice) -> Tensor:
        """Return the scores of a block, masked."""
        height, columns = scores.shape[-2:]
        if self.causal:
            last = torch.arange(rows.start, rows.start + height, device=scores.device)
            return scores.masked_fill_(torch.arange(columns, device=scores.device) > last[:, None], -math.inf)
        if self.mask is None:
            return scores
        mask = self.mask[..., rows, :] if self.mask.shape[-2] > 1 else self.mask
        mask = mask[examples] if mask.dim() == scores.dim() and len(mask) > 1 else mask
        return scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)


def attention(query: Tensor, key: Tensor, value: Tensor, masking: Masking) -> Tensor:
    """Return ``scaled_dot_product_attention`` without dropout, cast as autocast casts it."""
    dtype = autocast_dtype(query)
    if dtype is not None:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if masking.mask is not None and masking.mask.is_floating_point():
        masking = masking._replace(mask=masking.mask.to(query.dtype))
    return _Attention.apply(query, key, value, masking)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, masking: Masking) -> Tensor:
        out, logsumexp = _fused(query, key, value, masking)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.masking = masking
        return out

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_AttentionBackward.apply(gout, *ctx.saved_tensors, ctx.masking), None  # pyright: ignore[reportGeneralTypeIssues]


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gout: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsumexp: Tensor | None,
        masking: Masking,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(gout, query, key, value, out)
        ctx.masking = masking
        return _fused_backward(gout, (query, key, value), out, logsumexp, masking)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_second_derivative(ctx.saved_tensors, cotangents, ctx.masking), None, None, None


def _fused(query: Tensor, key: Tensor, value: Tensor, masking: Masking) -> tuple[Tensor, Tensor | None]:
    """Return the output and, from the CPU's kernel, what its backward pass needs besides."""
    if _flash_on_cpu(query, key, value, masking):
        mask, scale = masking.mask, masking.scale
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, masking.causal, attn_mask=mask, scale=scale
        )
    with without_autocast(query.device):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=masking.mask, is_causal=masking.causal, scale=masking.scale
        ), None


def _flash_on_cpu(query: Tensor, key: Tensor, value: Tensor, masking: Masking) -> bool:
    return query.device.type == "cpu" and query.dim() == 4 and masking.mask is None and value.shape == key.shape


def _fused_backward(
    gout: Tensor, inputs: tuple[Tensor, Tensor, Tensor], out: Tensor, logsumexp: Tensor | None, masking: Masking
) -> tuple[Tensor, ...]:
    """Return the derivatives by Q, K and V."""
    if logsumexp is not None:
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gout, *inputs, out, logsumexp, 0.0, masking.causal, scale=masking.scale
        )
    # The fused kernel again, for its own backward pass: no device has the same arguments for it.
    with torch.enable_grad():
        query, key, value = (tensor.detach().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(_fused(query, key, value, masking)[0], (query, key, value), gout)


def _second_derivative(
    saved: tuple[Tensor, ...], cotangents: tuple[Tensor, ...], masking: Masking
) -> tuple[Tensor, ...]:
    """Return the derivatives by gO, Q, K and V."""
    gout, query, key, value, out = saved
    delta = (gout * out).sum(-1, keepdim=True)
    results = [torch.empty_like(gout), torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)]
    for examples, rows in _blocks(query, key):
        by_row, whole = (examples, ..., rows, slice(None)), (examples, ...)
        go, q, vq, d = (_full_precision(tensor[by_row]) for tensor in (gout, query, cotangents[0], delta))
        k, v, vk, vv = (_full_precision(tensor[whole]) for tensor in (key, value, *cotangents[1:]))
        q, vq = q * masking.scale, vq * masking.scale
        p = masking.probabilities(torch.matmul(q, k.mT), examples, rows)
        gp = torch.matmul(go, v.mT).sub_(d)
        m = torch.matmul(torch.cat((vq, q), -1), torch.cat((k, vk), -1).mT)
        m.sub_((p * m).sum(-1, keepdim=True))
        n, gs = p * m, p * gp
        t = m.mul_(gp).add_(torch.matmul(go, vv.mT))
        u = aten._softmax_backward_data(t, p, -1, p.dtype)
        results[0][by_row] = torch.matmul(n, v).add_(torch.matmul(p, vv))
        results[1][by_row] = torch.matmul(u, k).add_(torch.matmul(gs, vk)).mul_(masking.scale)
        results[2][whole] += torch.matmul(u.mT, q).add_(torch.matmul(gs.mT, vq)).to(key.dtype)
        results[3][whole] += torch.matmul(n.mT, go).to(value.dtype)
    return tuple(results)


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.contiguous()


def _blocks(query: Tensor, key: Tensor) -> Generator[tuple[slice, slice]]:
    """Yield examples and rows of blocks: several examples with all their rows, or some rows of one example."""
    rows, examples = query.shape[-2], len(query)
    of_example = math.prod(query.shape[1:-1]) * key.shape[-2]
    together = max(1, BLOCK_ELEMENTS // of_example)
    height = rows if together > 1 else max(1, rows * BLOCK_ELEMENTS // of_example)
    for first in range(0, examples, together):
        for top in range(0, rows, height):
            yield slice(first, first + together), slice(top, top + height)
