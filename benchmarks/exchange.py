"""How fast the exchange is, against what the same machine does with dense tensors; one run, so that ratios compare.

    python benchmarks/exchange.py [--clients 20] [--parameters 11000000] [--density 0.5] [--threads 2] [--rounds 5]

Prints, for `direct` and `on_demand` and both ways to normalise: seconds of one full exchange and aggregation on one
process (masks, overlap, collaborators, values, sums, merge; every message encoded, checked and decoded) over
seconds of the same sums as one dense matrix product, collaboration matrix × stacked masked vectors. And encode's and
decode's bytes a second, read and written, over those of a copy. Medians over the rounds; the first is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from fedpurin.config import ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes
from fedpurin.exchange.wire.bits import compress, expand_into
from fedpurin.exchange.wire.blocks import grid_of
from fedpurin.exchange.wire.channel import Channel, Section
from fedpurin.exchange.wire.header import Kind, ValueType
from fedpurin.exchange.wire.index import decode_index, encode_index
from fedpurin.methods.overlap import collaborators, overlap_matrix
from fedpurin.space import Layout, pack_mask, unpack_mask

BETA = 100
BUCKET_BYTES = 64 * 2**20


def make_masks(layout: Layout, clients: int, density: float) -> dict[int, Tensor]:
    """Random masks that have half of their positions in common more than by chance."""
    parameters, common = layout.parameter_mask(), torch.rand(layout.length)
    masks = {}
    for client in range(clients):
        own = torch.where(torch.rand(layout.length) < 0.5, common, torch.rand(layout.length))
        masks[client] = pack_mask((own < density) & parameters)
    return masks


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def benchmark_rounds(layout: Layout, clients: int, density: float, rounds: int) -> Iterator[str]:
    masks = make_masks(layout, clients, density)
    vectors = {client: torch.randn(layout.length) for client in range(clients)}
    ids = list(range(clients))
    groups = collaborators(overlap_matrix(list(masks.values()), "dice"), ids, 0, BETA)
    matrix = torch.zeros(clients, clients)
    for client, members in groups.items():
        matrix[client, list(members)] = 1.0
    stacked = torch.stack([vectors[client] * unpack_mask(masks[client]) for client in ids])
    pairs = sum(map(len, groups.values())) - clients
    yield f"{clients} clients x {layout.size:,} parameters, density {density}, {pairs} pairs collaborate"

    def exchange_round(mode: str, normalise: str) -> None:
        exchange = Exchange(ExchangeConfig(mode=mode), layout, Processes(), Ledger())  # type: ignore[arg-type]
        exchange.begin_round(0, ids)
        shared = exchange.share_masks(masks)
        found = collaborators(overlap_matrix([shared[client] for client in ids], "dice"), ids, 0, BETA)
        exchange.combine(vectors, shared, found, normalise=normalise)  # type: ignore[arg-type]

    cases = list(product(("direct", "on_demand"), ("collaborators", "contributors")))
    dense: list[float] = []
    sparse: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(rounds + 1):
        dense.append(seconds_of(lambda: matrix @ stacked))
        for mode, normalise in cases:
            sparse[mode, normalise].append(seconds_of(lambda mode=mode, how=normalise: exchange_round(mode, how)))
    base = statistics.median(dense[1:])
    yield f"dense matrix product                {base:.3f} s"
    for (mode, normalise), taken in sparse.items():
        median = statistics.median(taken[1:])
        yield f"exchange {mode:>9}, {normalise:<13}  {median:.3f} s = {median / base:.2f} x the product"


def benchmark_codec(layout: Layout, density: float, rounds: int) -> Iterator[str]:
    """One client's update, mask and values, written and read bucket by bucket."""
    mask, vector = make_masks(layout, 1, density)[0], torch.randn(layout.length)
    grid, target = grid_of(layout), torch.zeros(layout.length)
    message, received = Channel(Kind.UPDATE, 0, 0), Channel(Kind.UPDATE, 0, 0)
    parameters = grid.parameters(vector.device)
    spans = list(grid.buckets(BUCKET_BYTES // 4))
    float32 = ValueType.FLOAT32
    pieces = {}

    def encode_pieces() -> None:
        for span in spans:
            selected = span.packed(mask)
            encoded = encode_index(selected, span.packed(parameters), span)
            message.add_index(encoded)
            pieces[span.first] = (encoded, message.write_values(compress(span.of(vector), selected), float32))

    def decode_pieces() -> None:
        for span in spans:
            encoded, piece = pieces[span.first]
            received.add(Section.TABLE, encoded.table)
            received.add(Section.INDEX, encoded.index)
            selected = decode_index(encoded.table, encoded.index, span.packed(parameters), span)
            expand_into(span.of(target), selected, received.read_values(piece, float32))

    encode_pieces()
    decode_pieces()
    assert torch.equal(target, vector * unpack_mask(mask))
    num_bytes = sum(message.lengths.values())
    moved = {"copy": 2 * vector.nbytes} | dict.fromkeys(("encode", "decode"), vector.nbytes + mask.nbytes + num_bytes)
    work = {"copy": lambda: target.copy_(vector), "encode": encode_pieces, "decode": decode_pieces}
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(4 * rounds + 1):
        for name, function in work.items():
            taken[name].append(seconds_of(function))
    speed = {name: moved[name] / statistics.median(taken[name][1:]) for name in work}
    yield f"copy    {speed['copy'] / 1e9:5.1f} GB/s, read and written"
    for name in ("encode", "decode"):
        yield f"{name}  {speed[name] / 1e9:5.1f} GB/s = {speed[name] / speed['copy']:.0%} of the copy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=11_000_000)
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    layout = Layout.from_sizes([arguments.parameters // 20] * 20)
    for line in benchmark_codec(layout, arguments.density, arguments.rounds):
        print(line, flush=True)
    for line in benchmark_rounds(layout, arguments.clients, arguments.density, arguments.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
