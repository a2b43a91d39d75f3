"""Networks that turn images into logits. Each is a function of `num_classes` and, where it matters, the image."""

from lightning_modules.backbones.cnn import cnn
from lightning_modules.backbones.mlp import mlp
from lightning_modules.backbones.resnet import resnet8, resnet10, resnet18, resnet50
from lightning_modules.backbones.vit import vit_b_16

__all__ = ["cnn", "mlp", "resnet8", "resnet10", "resnet18", "resnet50", "vit_b_16"]
