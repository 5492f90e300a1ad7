"""Vision transformers for small images: of timm's layers, and a small one with batch norm in place of layer norm.

The parameters of the latter are named as in VNN-COMP 2023's ViT benchmark (Shi et al.), whose ONNX files it loads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register

SIZES = {  # name: width, depth, heads
    "vit-micro": (96, 6, 3),
    "vit-tiny": (192, 12, 3),
    "vit-small": (384, 12, 6),
}
WIDTH, DEPTH, HEADS, HIDDEN, PATCH = 48, 2, 3, 96, 16  # of the transformer with batch norm


@register(*SIZES, *(f"{name}-p8" for name in SIZES), activation=nn.GELU)
def build_vit(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """A ViT with 4-pixel patches from 16 pixels on, 2-pixel patches below; ``-p8`` always has 8-pixel patches.

    Attention uses the kernel that PyTorch picks; the exact route picks the one that can be differentiated twice.
    """
    from timm.models.vision_transformer import VisionTransformer  # here, because timm loads slowly

    size, _, patches = spec.name.partition("-p")
    patch = int(patches) if patches else 4 if spec.image_size >= 16 else 2
    _check_patches(spec, patch)
    width, depth, heads = SIZES[size]
    return VisionTransformer(
        img_size=spec.image_size,
        patch_size=patch,
        in_chans=spec.in_channels,
        num_classes=spec.num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        act_layer=activation,
    )


class Patches(nn.Module):
    """Images cut into patches, each a vector, a class token in front and learnt positions added."""

    def __init__(self, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(WIDTH))
        self.positions = nn.Parameter(torch.randn((image_size // PATCH) ** 2 + 1, WIDTH) * 0.02)
        self.projection = nn.Conv2d(in_channels, WIDTH, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (batch, 1 + patches, width)."""
        patches = self.projection(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), 1, -1), patches], 1) + self.positions


class TokenNorm(nn.Module):
    """Batch norm of tokens, over examples and places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return normalised tokens."""
        return self.norm(tokens.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with a linear layer each for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens."""
        query, key, value = (
            layer(tokens).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """A function of the tokens, added to them."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the sum."""
        return tokens + self.fn(tokens)


class MeanToken(nn.Module):
    """The mean over tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors (batch, width)."""
        return tokens.mean(1)


def _block(activation: type[nn.Module]) -> nn.Module:
    # The third layer stands for dropout, which the checkpoints were trained without.
    hidden = nn.Sequential(nn.Linear(WIDTH, HIDDEN), activation(), nn.Identity(), nn.Linear(HIDDEN, WIDTH))
    return nn.Sequential(
        Residual(nn.Sequential(TokenNorm(), Attention())), Residual(nn.Sequential(TokenNorm(), hidden))
    )


@register("vit-bn-p16")
def build_vit_bn(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """Two blocks of width 48 and 3 heads on 16-pixel patches, and the mean over tokens."""
    _check_patches(spec, PATCH)
    blocks = nn.Sequential(*(_block(activation) for _ in range(DEPTH)))
    head = nn.Sequential(MeanToken(), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, spec.num_classes))
    return nn.Sequential(Patches(spec.in_channels, spec.image_size), blocks, head)


def _check_patches(spec: ModelSpec, patch: int) -> None:
    if spec.image_size % patch:
        raise InputError(
            f"{spec.name} cuts images into {patch}-pixel patches and image_size was {spec.image_size}; use a multiple "
            f"of {patch}."
        )
