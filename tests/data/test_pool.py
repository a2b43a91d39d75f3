"""Batches against a loop over single samples, and the literal values of normalisation and augmentation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedpurin.data.pool as pool_module
from fedpurin.data import Pool, augment


def images(count: int, size: int = 3, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def test_normalisation_takes_the_channels_mean_and_deviation() -> None:
    inputs = torch.tensor([[[[10]], [[100]]], [[[30]], [[100]]]], dtype=torch.uint8)
    pool = Pool(inputs, torch.tensor([0, 1]), mean=torch.tensor([20.0, 90.0]), std=torch.tensor([10.0, 5.0]))
    ((x, y),) = pool.batches([0, 1], 8)
    assert x.flatten().tolist() == [-1.0, 2.0, 1.0, 2.0]
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1]


def test_evaluation_keeps_the_order_and_the_smaller_last_batch() -> None:
    pool = Pool(torch.arange(10.0).unsqueeze(1), torch.arange(10))
    batches = list(pool.batches(np.array([7, 2, 9, 4, 0]), 2))
    assert [y.tolist() for _, y in batches] == [[7, 2], [9, 4], [0]]
    assert [x.flatten().tolist() for x, _ in batches] == [[7.0, 2.0], [9.0, 4.0], [0.0]]


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), seed=st.integers(0, 5))
def test_training_epoch_shows_every_sample_once(count: int, batch_size: int, seed: int) -> None:
    pool = Pool(torch.arange(40.0).unsqueeze(1), torch.arange(40))
    batches = list(pool.batches(torch.arange(count), batch_size, generator=torch.Generator().manual_seed(seed)))
    assert [len(y) for _, y in batches] == [batch_size] * (count // batch_size) + [count % batch_size] * bool(
        count % batch_size
    )
    seen = torch.cat([y for _, y in batches])
    assert sorted(seen.tolist()) == list(range(count))
    assert torch.equal(torch.cat([x for x, _ in batches]).flatten(), seen.float())


def test_epochs_of_one_generator_differ_and_repeat_with_the_seed() -> None:
    pool = Pool(torch.arange(50.0).unsqueeze(1), torch.arange(50))

    def epochs() -> list[list[int]]:
        generator = torch.Generator().manual_seed(3)
        return [torch.cat([y for _, y in pool.batches(range(50), 8, generator=generator)]).tolist() for _ in range(2)]

    assert epochs() == epochs()
    assert epochs()[0] != epochs()[1]


def test_the_cut_of_an_epoch_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, std = torch.tensor([120.0, 130.0]), torch.tensor([70.0, 60.0])
    pool = Pool(images(30), torch.arange(30), mean=mean, std=std, flip=True, rotation=15.0, crop_padding=1)

    def epoch() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(pool.batches(range(30), 4, generator=torch.Generator().manual_seed(5)))

    whole = epoch()
    monkeypatch.setattr(pool_module, "GATHER_BYTES", 1)
    for (x, y), (cut_x, cut_y) in zip(whole, epoch(), strict=True):
        assert torch.equal(x, cut_x)
        assert torch.equal(y, cut_y)


def test_flip_and_crop_against_a_loop() -> None:
    inputs, padding = images(6, size=4).float(), 2
    draws = augment.draw(6, True, 0.0, padding, torch.Generator().manual_seed(2))
    assert draws is not None
    out = augment.apply(inputs, draws, padding)
    for image, flipped, top, left, got in zip(inputs, draws.flipped, draws.top, draws.left, out, strict=True):
        expected = torch.zeros_like(image)
        for row in range(4):
            for column in range(4):
                source_row, source_column = top + row - padding, left + column - padding
                if 0 <= source_row < 4 and 0 <= source_column < 4:
                    expected[:, row, 3 - column if flipped else column] = image[:, source_row, source_column]
        assert torch.equal(got, expected)


def turned(image: list[list[float]], degrees: float) -> list[list[float]]:
    still = torch.zeros(1, dtype=torch.int64)
    draws = augment.Draws(still.bool(), still, still, torch.tensor([math.radians(degrees)], dtype=torch.float64))
    return augment.apply(torch.tensor([[image]]), draws, 0)[0, 0].tolist()  # type: ignore[no-any-return]


def test_rotation_by_hand() -> None:
    image = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert turned(image, 90) == [[7.0, 4.0, 1.0], [8.0, 5.0, 2.0], [9.0, 6.0, 3.0]]
    assert turned(image, 180) == [[9.0, 8.0, 7.0], [6.0, 5.0, 4.0], [3.0, 2.0, 1.0]]
    assert turned(image, 0) == image
    assert turned([[1.0, 2.0, 3.0, 4.0]] * 2, 90) == [[0.0, 2.0, 2.0, 0.0], [0.0, 3.0, 3.0, 0.0]]


def test_angles_are_drawn_within_the_bound() -> None:
    draws = augment.draw(1000, False, 15.0, 0, torch.Generator().manual_seed(0))
    assert draws is not None
    assert draws.radians is not None
    assert math.radians(14) < draws.radians.max() <= math.radians(15)
    assert math.radians(-15) <= draws.radians.min() < math.radians(-14)


def test_padding_is_zero_after_the_scaling() -> None:
    inputs = torch.full((1, 1, 1, 1), 200, dtype=torch.uint8)
    pool = Pool(inputs, torch.tensor([0]), mean=torch.tensor([100.0]), std=torch.tensor([50.0]), crop_padding=1)
    generator = torch.Generator().manual_seed(0)
    seen = {float(x) for _ in range(60) for x, _ in pool.batches([0], 1, generator=generator)}
    assert seen == {0.0, 2.0}  # black would be −2


def test_flips_alone_mirror_about_half_of_the_images() -> None:
    pool = Pool(images(200), torch.arange(200), flip=True)
    plain = torch.cat([x for x, _ in pool.batches(range(200), 50)])
    ((x, y),) = pool.batches(range(200), 200, generator=torch.Generator().manual_seed(0))
    mirrored = [torch.equal(image, plain[label].flip(-1)) for image, label in zip(x, y.tolist(), strict=True)]
    kept = [torch.equal(image, plain[label]) for image, label in zip(x, y.tolist(), strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_float_samples_of_any_shape_are_left_alone() -> None:
    inputs = torch.randn(5, 2, 3, 4, 5)
    ((x, _),) = Pool(inputs, torch.zeros(5, dtype=torch.int64)).batches([4, 1], 2)
    assert torch.equal(x, inputs[[4, 1]])


def test_augmentation_needs_images() -> None:
    with pytest.raises(ValueError, match=r"data\.flip, data\.rotation and data\.crop_padding need images.*\[3\]"):
        Pool(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), flip=True)


def test_moving_to_the_same_device_copies_nothing() -> None:
    pool = Pool(images(3), torch.arange(3))
    assert pool.to("cpu").inputs.data_ptr() == pool.inputs.data_ptr()


@pytest.mark.gpu
def test_the_device_changes_no_bit() -> None:
    mean, std = torch.tensor([120.0, 130.0]), torch.tensor([70.0, 60.0])
    pool = Pool(images(64), torch.arange(64), mean=mean, std=std, flip=True, rotation=15.0, crop_padding=1)

    def epoch(device: str) -> torch.Tensor:
        return torch.cat([x for x, _ in pool.to(device).batches(range(64), 7, generator=torch.Generator())]).cpu()

    assert torch.equal(epoch("cpu"), epoch("cuda"))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_laid_out_with_channels_last_keep_shape_and_values(channels: int) -> None:
    images = torch.randint(0, 256, (7, channels, 4, 5), dtype=torch.uint8)
    mean, std = torch.full((channels,), 100.0), torch.full((channels,), 50.0)
    pool = Pool(images, torch.arange(7), mean, std, flip=True)
    laid = replace(pool, channels_last=True)
    for generator in (None, 3):
        pair = [
            list(p.batches(torch.arange(7), 3, generator=generator and torch.Generator().manual_seed(generator)))
            for p in (pool, laid)
        ]
        for (x, y), (other, labels) in zip(*pair, strict=True):
            assert torch.equal(x, other)
            assert torch.equal(y, labels)
            assert other.stride() == (20 * channels, 1, 5 * channels, channels)
            assert torch.conv2d(other, torch.ones(2, channels, 3, 3)).is_contiguous(memory_format=torch.channels_last)
