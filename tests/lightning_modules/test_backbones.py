"""Parameter counts as docs/method.md states them, output shapes, and initial weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.models import resnet50 as torchvision_resnet50
from torchvision.models import vit_b_16 as torchvision_vit_b_16

from lightning_modules.backbones import cnn, resnet8, resnet10, resnet18, resnet50, vit_b_16
from lightning_modules.backbones.cnn import HalvingMaxPool


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [(resnet8, 1_235_274), (resnet10, 4_910_922), (resnet18, 11_181_642), (resnet50, 23_528_522)],
)
def test_residual_networks(backbone: Callable[..., nn.Module], parameters: int) -> None:
    with torch.device("meta"):  # shapes only
        network = backbone(10)
        assert num_parameters(network) == parameters
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert num_parameters(backbone(10, in_channels=1)) == parameters - 2 * 64 * 49
        assert backbone(7, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


def test_resnet8_layer_by_layer() -> None:
    stem = 3 * 64 * 49 + 2 * 64
    first = 2 * (64 * 64 * 9 + 2 * 64)
    second = 64 * 128 * 9 + 128 * 128 * 9 + 64 * 128 + 3 * 2 * 128
    third = 128 * 256 * 9 + 256 * 256 * 9 + 128 * 256 + 3 * 2 * 256
    assert num_parameters(resnet8(10)) == stem + first + second + third + 256 * 10 + 10


def test_torchvision_agrees() -> None:
    with torch.device("meta"):
        assert num_parameters(resnet18(1000)) == num_parameters(torchvision_resnet18(num_classes=1000))
        assert num_parameters(resnet50(1000)) == num_parameters(torchvision_resnet50(num_classes=1000))
        assert num_parameters(vit_b_16(1000)) == num_parameters(torchvision_vit_b_16(num_classes=1000)) == 86_567_656


@pytest.mark.parametrize("in_channels", [1, 3])
def test_convolutions_are_kaiming_normal_by_fan_out(in_channels: int) -> None:
    network = resnet8(10, in_channels=in_channels)
    for convolution in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        fan_out = convolution.out_channels * convolution.kernel_size[0] * convolution.kernel_size[1]
        expected = (2 / fan_out) ** 0.5
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.1)


def test_vision_transformer() -> None:
    with torch.device("meta"):
        network = vit_b_16(10, in_channels=1, image_size=32)
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"do not fill 28; set data\.image_size=32"):
        vit_b_16(10, image_size=28)


@pytest.mark.parametrize(("size", "parameters"), [(8, 35_914), (28, 220_234)])
def test_cnn(size: int, parameters: int) -> None:
    network = cnn(10, in_channels=1, image_size=size)
    assert num_parameters(network) == parameters
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert not list(network.buffers())
    with pytest.raises(ValueError, match="at least 8 pixels, not 7"):
        cnn(10, image_size=7)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (2, 3)])
def test_the_pooling_of_an_evaluation_is_torch_s(height: int, width: int) -> None:
    """Also with sides that are odd, ties, infinite values and NaN, and of many clients at once."""
    draw = torch.Generator().manual_seed(height)
    x = torch.randn(4, 3, 6, height, width, generator=draw).relu()
    x[0, 0, 0, 0, 1], x[0, 0, 1, 1, 0], x[1, 0, 0, 0, 0] = float("nan"), float("inf"), float("-inf")
    ours, torchs = HalvingMaxPool(2).eval(), nn.MaxPool2d(2)
    torch.testing.assert_close(ours(x[0]), torchs(x[0]), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(torch.func.vmap(ours)(x), torch.func.vmap(torchs)(x), rtol=0, atol=0, equal_nan=True)


def test_a_normed_cnn_has_192_parameters_more() -> None:
    plain, normed = cnn(10), cnn(10, norm=True)
    assert num_parameters(normed) - num_parameters(plain) == 2 * (32 + 64)
    assert [type(layer).__name__ for layer in normed][:2] == ["Conv2d", "BatchNorm2d"]
    assert num_parameters(plain) == 35_914
