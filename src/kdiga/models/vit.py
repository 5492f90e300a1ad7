"""Vision transformers for small images, out of timm's parts."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdiga.errors import InputError
from kdiga.models.registry import ModelSpec, register

SIZES = {  # name: width, depth, heads
    "vit-micro": (96, 6, 3),
    "vit-tiny": (192, 12, 3),
    "vit-small": (384, 12, 6),
}


@register(*SIZES, *(f"{name}-p8" for name in SIZES), activation=nn.GELU)
def build_vit(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """A ViT with 4-pixel patches from 16 pixels on, 2-pixel patches below; ``-p8`` always has 8-pixel patches.

    Attention uses whatever kernel PyTorch picks; the exact route picks the one that can be
    differentiated twice.
    """
    size, _, patches = spec.name.partition("-p")
    patch = int(patches) if patches else 4 if spec.image_size >= 16 else 2
    if spec.image_size % patch:
        raise InputError(
            f"{spec.name} cuts images into {patch}-pixel patches and image_size was {spec.image_size}; "
            f"use a multiple of {patch}."
        )
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
