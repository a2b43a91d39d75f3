"""Residual networks: torchvision's ResNet-18 and ResNet-50, and docs/method.md's ResNet-8 and ResNet-10.

All have the ImageNet stem (7×7 convolution, stride 2, and max-pool) and Kaiming-normal (fan-out) convolutions
(He et al. 2015, arXiv 1512.03385), whatever the size of the images.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


def resnet8(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Three stages (64, 128, 256) of one basic block: 1.23 M parameters with 10 classes."""
    network = ResNet(BasicBlock, [1, 1, 1, 1])
    network.layer4 = nn.Identity()
    return _fit(network, 256, num_classes, in_channels)


def resnet10(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Four stages (64, 128, 256, 512) of one basic block: 4.9 M parameters with 10 classes."""
    return _fit(ResNet(BasicBlock, [1, 1, 1, 1]), 512, num_classes, in_channels)


def resnet18(num_classes: int, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet-18: 11.2 M parameters with 10 classes."""
    return _fit(ResNet(BasicBlock, [2, 2, 2, 2]), 512, num_classes, in_channels)


def resnet50(num_classes: int, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet-50: 23.5 M parameters with 10 classes."""
    return _fit(ResNet(Bottleneck, [3, 4, 6, 3]), 2048, num_classes, in_channels)


def _fit(network: ResNet, num_features: int, num_classes: int, in_channels: int) -> nn.Module:
    """Give the network the stem and the head that the data need; both are initialised as torchvision does."""
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.fc = nn.Linear(num_features, num_classes)
    fitted: nn.Module = network  # torchvision is not typed
    return fitted
