"""Sums of what clients sent, in one fixed order, METHOD steps 6 and 7; one bucket at a time.

Owns: the order (other collaborators in ascending id, then the client's own value, then the division; all in
float32), and the choice between the CPU kernels (`sums_cpu.py`) and torch operations (`sums_torch.py`), which give
the same bits. Does not own: who is summed (`methods/overlap.py`), what is sent (`sparse.py`).

Clients are rows here: row r of `sent` says which positions of the bucket client r sent, packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from jaxtyping import Float32, Int16, UInt8
from torch import Tensor

from fedpurin.exchange import sums_cpu, sums_torch
from fedpurin.exchange.groups import Groups


def unions(masks: UInt8[Tensor, "rows bytes"], groups: Groups, within: Sequence[int]) -> UInt8[Tensor, "results bytes"]:
    """The positions of row `within[k]` that some member of group k has too."""
    return _implementation(masks).unions(masks, groups, within)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BucketRows:
    """What arrived for one bucket: `values` holds each row's values, ascending, row after row."""

    sent: UInt8[Tensor, "rows bytes"]
    values: Float32[Tensor, " sent"]

    def sums(
        self,
        groups: Groups,
        own: Sequence[int],
        at: UInt8[Tensor, "results bytes"],
        finished: UInt8[Tensor, "results bytes"],
        divisors: Sequence[int] | None,
        out: Float32[Tensor, " out"] | None = None,
    ) -> tuple[list[Float32[Tensor, " at"]], list[Int16[Tensor, " unfinished"]]]:
        """Σ over group k of what its rows sent, at the positions `at[k]`.

        Where `finished[k]`, row `own[k]`'s own value is added, and the result divided by `divisors[k]`, or without
        `divisors` by the number of rows that sent a value there, own included. Without `divisors` the second
        result is that number at the other positions of `at[k]`, else empty. The sums may be written into `out`.
        """
        return _implementation(self.sent).sums(  # type: ignore[no-any-return]
            self.sent, self.values, groups, own, at, finished, divisors, out
        )

    def weighted(self, weights: Sequence[float]) -> Float32[Tensor, " positions"]:
        """Σ over all rows of weight times what the row sent, at every position; weights rounded to float32 first."""
        rounded = torch.tensor(weights, dtype=torch.float32)
        return _implementation(self.sent).weighted(self.sent, self.values, rounded)  # type: ignore[no-any-return]


def merge_own(
    part: Float32[Tensor, " positions"],
    mask: UInt8[Tensor, " bytes"],
    at: UInt8[Tensor, " bytes"],
    finished: UInt8[Tensor, " bytes"],
    values: Float32[Tensor, " at"],
    divisor: int | None,
    counts: Int16[Tensor, " unfinished"],
) -> None:
    """The client's side: replace the critical values of `part`, in place.

    At `at` it received `values`: the finished value at `finished`, elsewhere the others' sum, to which it adds its
    own and divides by `divisor`, or without one by `counts`. At other positions of `mask` nobody else sent
    anything: the sum is zero, the number of contributors one.
    """
    _implementation(part).merge_own(part, mask, at, finished & at, values, divisor, counts)


def _implementation(like: Tensor) -> ModuleType:
    return sums_cpu if like.device.type == "cpu" else sums_torch
