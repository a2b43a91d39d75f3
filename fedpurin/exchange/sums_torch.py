"""The sums of `sums.py` in torch operations, on any device; see there for what each function promises.

Membership is a matrix of zeros and ones and every step handles one row for all results at once, so the number of
operations grows with the clients, not with their pairs, while each result still sums its rows in ascending order:
adding 0 · x changes nothing, since values are finite and no partial sum is −0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpurin.exchange.groups import Groups
from fedpurin.space import unpack_mask


def unions(masks: Tensor, groups: Groups, within: Sequence[int]) -> Tensor:
    member = groups.matrix(len(masks), masks.device).to(torch.uint8) * 255
    result = torch.zeros(len(within), masks.shape[1], dtype=torch.uint8, device=masks.device)
    for row in range(len(masks)):
        result |= member[:, row, None] & masks[row]
    return result & masks[list(within)]


def sums(
    sent: Tensor,
    values: Tensor,
    groups: Groups,
    own: Sequence[int],
    at: Tensor,
    finished: Tensor,
    divisors: Sequence[int] | None,
    out: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    bits, rows = _spread(sent, values)
    member = groups.matrix(len(rows), rows.device)
    total = torch.zeros(len(own), rows.shape[1], device=rows.device)
    for row in range(len(rows)):
        total += member[:, row, None] * rows[row]
    chosen, done = _bits(at), _bits(finished)
    if divisors is not None:
        divisor = torch.tensor(divisors, dtype=torch.float32, device=rows.device)[:, None]
    else:
        divisor = member.float() @ bits.float() + 1
    total = torch.where(done, (total + rows[list(own)]) / divisor, total)
    parts = [total[k][chosen[k]] for k in range(len(own))]
    if divisors is not None:
        return parts, [torch.empty(0, dtype=torch.int16, device=rows.device) for _ in own]
    unfinished = chosen & ~done
    return parts, [divisor[k][unfinished[k]].to(torch.int16) for k in range(len(own))]


def weighted(sent: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    _, rows = _spread(sent, values)
    total = torch.zeros(rows.shape[1], device=rows.device)
    for row, weight in zip(rows, weights.to(rows.device), strict=True):
        total += row * weight
    return total


def merge_own(
    part: Tensor,
    mask: Tensor,
    at: Tensor,
    finished: Tensor,
    values: Tensor,
    divisor: int | None,
    counts: Tensor,
) -> None:
    critical, chosen, done = unpack_mask(mask), unpack_mask(at), unpack_mask(finished)
    received = torch.zeros_like(part)
    received[chosen] = values
    divisors = torch.full_like(part, divisor or 1)
    if divisor is None:
        divisors[chosen & ~done] = counts.to(torch.float32)
    part[:] = torch.where(critical, torch.where(done, received, (received + part) / divisors), part)


def _bits(packed: Tensor) -> Tensor:
    return unpack_mask(packed.reshape(-1)).view(len(packed), 8 * packed.shape[1])


def _spread(sent: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    bits = _bits(sent)
    rows = torch.zeros(bits.shape, dtype=torch.float32, device=sent.device)
    rows[bits] = values
    return bits, rows
