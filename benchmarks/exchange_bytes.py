"""How many bytes `on_demand` saves on the paper's Fashion-MNIST setting, from a few trained rounds.

    python benchmarks/exchange_bytes.py [--rounds 3] [--method fedpurin] [OVERRIDE ...]

A full run is 200 rounds. This one trains `--rounds` of them and, after the last local training, exchanges the very
same masks and models as if the round were each of ROUNDS (the bar θ_t depends on the round, the masks are what
they are), in both modes. It checks that both modes make the same models, and adds up 200 rounds by the trapezoid
rule. What it cannot show is how masks change over a full run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedpurin.api import simulate
from fedpurin.exchange import Exchange, Ledger, Processes
from fedpurin.federation import Federation
from fedpurin.methods.overlap import collaborators, overlap_matrix

ROUNDS = (0, 10, 25, 50, 75, 90, 99, 100, 199)
LAST = 200


class Compare:
    """A callback that exchanges the last round's masks and models as if it were each of ROUNDS."""

    def __init__(self, last: int, changes: dict[str, Any]) -> None:
        self.last, self.changes = last, changes
        self.rows: list[tuple[int, dict[str, int], dict[str, int], float]] = []

    def on_round_fits_end(self, federation: Federation) -> None:
        if len(federation.history) != self.last - 1:
            return
        ids, method = sorted(federation.clients), federation.method
        masks = {i: federation.clients[i].mask for i in ids}
        overlap = overlap_matrix([masks[i] for i in ids], method.overlap)  # type: ignore[attr-defined]
        for round_number in ROUNDS:
            groups = collaborators(overlap, ids, round_number, method.beta)  # type: ignore[attr-defined]
            totals, models = {}, []
            for mode in ("direct", "on_demand"):
                config = replace(federation.config.exchange, mode=mode, **self.changes)
                exchange = Exchange(config, federation.trainer.space.shared, Processes(), Ledger())
                exchange.begin_round(round_number, ids)
                vectors = {i: federation.clients[i].vector.clone() for i in ids}
                exchange.combine(vectors, exchange.share_masks(masks), groups, normalise=method.normalise)  # type: ignore
                totals[mode] = exchange.ledger.round_totals(round_number)
                models.append(torch.cat([vectors[i] for i in ids]))
            same = self.changes or torch.equal(models[0].view(torch.int32), models[1].view(torch.int32))
            assert same, "the two modes made different models"
            partners = sum(len(group) - 1 for group in groups.values()) / len(groups)
            self.rows.append((round_number, totals["direct"], totals["on_demand"], partners))


def both_ways(totals: dict[str, int]) -> int:
    return totals["bytes/up"] + totals["bytes/down"]


def report(rows: Sequence[tuple[int, dict[str, int], dict[str, int], float]]) -> None:
    print("round  partners   dense MB  direct MB  on demand MB   (mask, request, values, sums)  below dense, direct")
    per_round = []
    for round_number, direct, demand, partners in rows:
        dense = direct["bytes/dense_up"] + direct["bytes/dense_down"]
        sizes = (dense, both_ways(direct), both_ways(demand))
        per_round.append(sizes)
        phases = ", ".join(
            f"{demand.get(f'bytes/{name}', 0) / 1e6:.1f}"
            for name in ("up/mask", "down/request", "up/values", "down/sums")
        )
        print(
            f"{round_number:5} {partners:9.1f} {dense / 1e6:10.1f} {sizes[1] / 1e6:10.1f} {sizes[2] / 1e6:13.1f}   ({phases})"
            f"   {1 - sizes[2] / dense:.1%}, {1 - sizes[2] / sizes[1]:.1%}"
        )
    every = np.arange(LAST)
    dense, direct, demand = (
        np.interp(every, [row[0] for row in rows], [sizes[k] for sizes in per_round]).sum() for k in range(3)
    )
    print(
        f"{LAST} rounds: dense {dense / 1e9:.2f} GB, direct {direct / 1e9:.2f} GB, on demand {demand / 1e9:.2f} GB: "
        f"{1 - demand / dense:.1%} below dense, {1 - demand / direct:.1%} below direct"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--value-dtype", default=None, help="float16, bfloat16, float8_e4m3fn or float8_e5m2: lossy")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    compare = Compare(arguments.rounds, {"value_dtype": arguments.value_dtype} if arguments.value_dtype else {})
    overrides = ["experiment=paper_fashion_mnist", f"trainer.rounds={arguments.rounds}", "checkpoint.every=0"]
    with tempfile.TemporaryDirectory() as folder:
        simulate([*overrides, *arguments.overrides], callbacks=[compare], run_dir=folder)
    report(compare.rows)


if __name__ == "__main__":
    main()
