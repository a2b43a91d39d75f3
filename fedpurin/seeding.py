"""Every random number of a run comes from here: one generator per (seed, purpose, round, client).

A stream is named, not drawn in turn, so what one client draws does not depend on which other clients ran,
on which process they ran, or on what was drawn before (docs/design.md, decision 3).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *, round_number: int = -1, client: int = -1) -> int:
    """A 63-bit seed for the named stream, by BLAKE2b; equal names give equal seeds on every machine.

    `round_number` and `client` stay at -1 for streams that belong to the whole run.
    """
    name = f"fedpurin/{seed}/{purpose}/{round_number}/{client}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1


def torch_generator(seed: int, purpose: str, *, round_number: int = -1, client: int = -1) -> torch.Generator:
    """A CPU generator for the named stream. Draw on the CPU and copy: the bits then agree on every device."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, purpose, round_number=round_number, client=client))
    return generator


def numpy_generator(seed: int, purpose: str, *, round_number: int = -1, client: int = -1) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.default_rng(derive_seed(seed, purpose, round_number=round_number, client=client))


def seed_global(seed: int, purpose: str, *, round_number: int = -1, client: int = -1) -> None:
    """Seed torch's global generators, which dropout and weight initialisation draw from."""
    torch.manual_seed(derive_seed(seed, purpose, round_number=round_number, client=client))
