"""Named random streams."""

from __future__ import annotations

import torch

from fedpurin.seeding import derive_seed, numpy_generator, torch_generator


def test_a_stream_is_fixed_for_ever() -> None:
    assert derive_seed(0, "weights") == 7022764854613484695
    assert derive_seed(7, "fit/order", round_number=3, client=11) == 8519760103079428041


def test_streams_differ_in_every_part_of_their_name() -> None:
    names = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    seeds = {derive_seed(seed, purpose, round_number=r, client=c) for seed, purpose, r, c in names}
    assert len(seeds) == len(names)


def test_generators_repeat() -> None:
    a, b = (torch.randperm(9, generator=torch_generator(1, "x", client=2)) for _ in range(2))
    assert torch.equal(a, b)
    assert (numpy_generator(1, "x").random(3) == numpy_generator(1, "x").random(3)).all()
