"""Mask statistics for the report: how dense masks are, how they move, and whose overlap. Writes `masks.jsonl`.

First line, once a run: {"tensors": names, "sizes": elements, "overlap": kind, "horizon": β}; without a rule of
collaboration (`Method.collaboration`) the kind is the published one, and the horizon null. Then one line a
round, means over the participants that fitted:

    density[l]   share of tensor l's parameters that the mask selects                   density/all: all tensors
    moved[l]     1 − |m ∧ m'| / |m ∨ m'|, m' the client's previous mask (0: the same)     moved/all

and at chosen rounds `ids`, `overlap` (METHOD step 5, null on the diagonal) and `collaborators` of each id. Counts are
popcounts of packed masks. Silent for methods without masks. Rank 0 writes; the others send it their counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt64
from torch import Tensor

from fedpurin.federation import Federation
from fedpurin.hooks import RunCallback
from fedpurin.methods import Round
from fedpurin.methods.overlap import Collaboration, Overlap, collaborators, overlap_matrix
from fedpurin.space import Layout

Shares = Float64[np.ndarray, " tensors_and_all"]
FILE = "masks.jsonl"


class MaskStatistics(RunCallback):
    """Appends a line a round to the run folder's `masks.jsonl`."""

    def __init__(self, every: int | None = None, max_clients: int = 64) -> None:
        """
        Args:
            every: rounds between overlap matrices; None takes four: the first, half the horizon (method.beta),
                the horizon, and the last.
            max_clients: with more participants, the matrix shows the first so many and no collaborators, which
                depend on all of them.
        """
        if (every is not None and every < 1) or max_clients < 2:
            raise ValueError(f"every={every} and max_clients={max_clients} are not possible: at least 1 and at least 2")
        self.every, self.max_clients = every, max_clients
        self._previous: dict[int, Tensor | None] = {}
        self._round: Round

    def on_run_start(self, federation: Federation) -> None:
        path = federation.run_dir / FILE
        if federation.processes.rank != 0 or not federation.method.needs_masks:
            return
        if federation.first_round == 0 or not path.exists():
            shared, rule = federation.trainer.space.shared, federation.method.collaboration()
            header = {
                "tensors": [segment.name for segment in shared],
                "sizes": [segment.size for segment in shared],
                "overlap": _kind(rule),
                "horizon": rule.horizon if rule else None,
            }
            path.write_text(json.dumps(header) + "\n")

    def on_round_start(self, this_round: Round) -> None:
        self._round = this_round
        self._previous = {
            client.id: client.mask for client in this_round.clients
        }  # a fit replaces them, never edits them

    def on_client_rows(self, federation: Federation, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count this rank's masks, gather, and write. A collective: every rank comes here once a round."""
        if not federation.method.needs_masks:
            return
        processes, number = federation.processes, self._round.number
        fitted = {row["client"] for row in rows if not row["diverged"]}
        masks = {
            client.id: client.mask.cpu()
            for client in self._round.clients
            if client.id in fitted and client.mask is not None
        }
        layout = federation.trainer.space.shared
        shares = {client_id: mask_shares(mask, self._previous[client_id], layout) for client_id, mask in masks.items()}
        shown = {client_id: masks[client_id] for client_id in self._shown(federation) if client_id in masks}
        gathered = processes.gather_objects((shares, shown))
        if processes.rank != 0:
            return
        line = {"round": number} | summarise_shares(
            {client_id: pair for part, _ in gathered for client_id, pair in part.items()}
        )
        if everyone := {client_id: mask for _, part in gathered for client_id, mask in part.items()}:
            line |= self._overlaps(federation, everyone)
        with (federation.run_dir / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _shown(self, federation: Federation) -> Sequence[int]:
        """Participants whose overlaps this round's line shows; none outside the chosen rounds."""
        return self._round.ids[: self.max_clients] if self._round.number in self._chosen(federation) else ()

    def _chosen(self, federation: Federation) -> range | set[int]:
        rounds = federation.config.trainer.rounds
        if self.every is not None:
            return range(0, rounds, self.every)
        rule = federation.method.collaboration()
        horizon = min(rule.horizon, rounds) if rule else rounds
        return {0, max(horizon // 2 - 1, 0), horizon - 1, rounds - 1}

    def _overlaps(self, federation: Federation, masks: Mapping[int, Tensor]) -> dict[str, Any]:
        ids, rule = sorted(masks), federation.method.collaboration()
        overlap = overlap_matrix([masks[client_id] for client_id in ids], _kind(rule))
        line: dict[str, Any] = {"ids": ids, "overlap": [[_rounded(value) for value in row] for row in overlap]}
        if rule is not None and len(self._round.ids) <= self.max_clients:
            groups = collaborators(overlap, ids, self._round.number, rule.horizon)
            line["collaborators"] = {str(client_id): group for client_id, group in groups.items()}
        return line


def mask_shares(
    mask: UInt8[Tensor, " packed"], previous: UInt8[Tensor, " packed"] | None, layout: Layout
) -> tuple[Shares, Shares]:
    """Density and moved share of each tensor and, as the last entry, of all together; NaN where undefined."""
    words, starts = _words(mask), np.array([segment.offset // 64 for segment in layout])
    sizes = np.array([*(segment.size for segment in layout), layout.size], dtype=np.float64)
    density = _count(words, starts) / sizes
    if previous is None:
        return density, np.full(len(sizes), np.nan)
    before = _words(previous)
    with np.errstate(invalid="ignore"):
        return density, 1.0 - _count(words & before, starts) / _count(words | before, starts)


def summarise_shares(shares: Mapping[int, tuple[Shares, Shares]]) -> dict[str, Any]:
    """A line's means over clients, summed by ascending id so that they do not depend on the number of ranks."""
    line: dict[str, Any] = {"clients": len(shares)}
    for index, name in enumerate(("density", "moved")):
        if shares:
            rows = np.stack([shares[client_id][index] for client_id in sorted(shares)])
            counts = np.isfinite(rows).sum(axis=0)
            with np.errstate(invalid="ignore"):
                *each, overall = [_rounded(mean) for mean in np.nansum(rows, axis=0) / counts]
            line |= {name: each, f"{name}/all": overall}
    return line


def _words(packed: UInt8[Tensor, " packed"]) -> UInt64[np.ndarray, " words"]:
    """A packed mask as 64-bit words; every tensor starts on a whole one (fedpurin/space.py)."""
    return packed.cpu().numpy().view(np.uint64)


def _count(words: UInt64[np.ndarray, " words"], starts: Int64[np.ndarray, " tensors"]) -> Shares:
    counts = np.add.reduceat(np.bitwise_count(words), starts, dtype=np.int64)
    return np.append(counts, counts.sum()).astype(np.float64)


def _kind(rule: Collaboration | None) -> Overlap:
    return rule.overlap if rule else "published"


def _rounded(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
