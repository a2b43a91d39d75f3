"""torchvision's vision transformer ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

import math

from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

PATCH_SIZE = 16


def vit_b_16(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """12 layers of width 768 over patches of 16×16 pixels: 86 M parameters, some of them positions.

    Raises:
        ValueError: the image's side is no multiple of 16 pixels.
    """
    if image_size % PATCH_SIZE:
        raise ValueError(
            f"vit_b_16 cuts images into patches of {PATCH_SIZE} pixels, which do not fill {image_size}; set "
            f"data.image_size={max(1, round(image_size / PATCH_SIZE)) * PATCH_SIZE}"
        )
    network = VisionTransformer(
        image_size=image_size,
        patch_size=PATCH_SIZE,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        mlp_dim=3072,
        num_classes=num_classes,
    )
    if in_channels != 3:
        network.conv_proj = nn.Conv2d(in_channels, 768, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        nn.init.trunc_normal_(network.conv_proj.weight, std=math.sqrt(1 / (in_channels * PATCH_SIZE**2)))
        nn.init.zeros_(network.conv_proj.bias)
    model: nn.Module = network  # torchvision is not typed
    return model
