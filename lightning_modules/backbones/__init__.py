"""Networks that turn images, vectors or tokens into logits: functions of `num_classes` and of what else the data tell."""

from lightning_modules.backbones.cnn import cnn
from lightning_modules.backbones.lstm import lstm
from lightning_modules.backbones.mlp import mlp
from lightning_modules.backbones.resnet import resnet8, resnet10, resnet18, resnet50
from lightning_modules.backbones.vit import vit_b_16

__all__ = ["cnn", "lstm", "mlp", "resnet8", "resnet10", "resnet18", "resnet50", "vit_b_16"]
