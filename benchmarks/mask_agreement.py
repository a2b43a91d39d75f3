"""How far masks agree: of one client under several initial weights, and of different clients under one.

    python -m benchmarks.mask_agreement                   # the clients of the study field, three seeds, a few minutes
    python -m benchmarks.mask_agreement --rounds 1 --options data=digits partition.num_clients=3

All seeds share one deal of the samples (`partition.seed`); they differ in initial weights and in the order of batches.
Agreement is Dice's, 2|m ∧ m'| / (|m| + |m'|), averaged over pairs. Chance is what masks with the same number of
parameters in each tensor, drawn at random, would have: 2 Σ_l a_l b_l / n_l over the sum of a and b.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import opened

Bits = NDArray[np.bool_]
OPTIONS = (
    "method=fedpurin_recommended", "data=fashion_mnist", "data.image_size=14", "partition=dirichlet", "partition.alpha=0.5",
    "partition.num_clients=20", "partition.train_per_client=50", "partition.test_per_client=50", "partition.seed=1",
    "trainer.batch_size=10", "trainer.local_epochs=2", "trainer.evaluate_every=1000", "horizon=10", "model.lr=0.03",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 5, 10], help="after which (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="two or more (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="(default: %(default)s)")
    parser.add_argument("--options", nargs="+", default=[], help="further options as for the fedpurin command")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    options = [*OPTIONS, f"trainer.rounds={max(given.rounds)}", *given.options]
    sizes, masks = collect(options, given.seeds, given.rounds)
    text = "\n".join(table(sizes, masks, given.rounds, given.seeds, options)) + "\n"
    (given.out / "mask_agreement.md").write_text(text)
    print(text)


def collect(
    options: Sequence[str], seeds: Sequence[int], rounds: Iterable[int]
) -> tuple[list[int], dict[tuple[int, int, int], Bits]]:
    """Sizes of the shared tensors, and the mask of each (round, seed, client) over them."""
    masks: dict[tuple[int, int, int], Bits] = {}
    sizes: list[int] = []
    for seed in seeds:
        with opened([*options, f"seed={seed}"]) as federation:
            shared = federation.trainer.space.shared
            sizes = [segment.size for segment in shared]
            for number in range(max(rounds)):
                federation.run_round(number)
                if number + 1 in rounds:
                    for client in federation.clients.values():
                        bits = np.unpackbits(client.mask.cpu().numpy(), bitorder="little").astype(np.bool_)
                        pieces = [bits[segment.offset : segment.offset + segment.size] for segment in shared]
                        masks[number + 1, seed, client.id] = np.concatenate(pieces)
    return sizes, masks


def agreement(a: Bits, b: Bits, sizes: Sequence[int]) -> tuple[float, float]:
    """Dice's coefficient of two masks, and its value by chance."""
    starts = np.cumsum([0, *sizes[:-1]])
    counts_a, counts_b = np.add.reduceat(a.astype(np.int64), starts), np.add.reduceat(b.astype(np.int64), starts)
    both = counts_a.sum() + counts_b.sum()
    return float(2 * (a & b).sum() / both), float(2 * (counts_a * counts_b / np.array(sizes)).sum() / both)


def table(
    sizes: Sequence[int],
    masks: dict[tuple[int, int, int], Bits],
    rounds: Sequence[int],
    seeds: Sequence[int],
    options: Sequence[str],
) -> list[str]:
    clients = sorted({client for _, _, client in masks})
    lines = [
        "# How far masks agree",
        "",
        f"`{' '.join(options)}`, seeds {', '.join(map(str, seeds))}, {len(clients)} clients. Dice's coefficient, "
        "means over pairs.",
        "",
        "| after round | one client, other initial weights | by chance | other clients, same initial weights | by chance |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number in rounds:
        same = [
            agreement(masks[number, a, client], masks[number, b, client], sizes)
            for a, b in itertools.combinations(seeds, 2)
            for client in clients
        ]
        other = [
            agreement(masks[number, seed, a], masks[number, seed, b], sizes)
            for seed in seeds
            for a, b in itertools.combinations(clients, 2)
        ]
        cells = [statistics.mean(pair[k] for pair in pairs) for pairs in (same, other) for k in (0, 1)]
        lines.append(f"| {number} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return lines


if __name__ == "__main__":
    main()
