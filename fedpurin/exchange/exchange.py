"""What a method calls to let clients exchange: masks, sparse values, dense values. Everything is really encoded.

Owns: the public operations of a round and their order. Does not own: how each works (`masks.py`, `sparse.py`,
`dense.py`), encodings (`message.py`), who collaborates (`fedpurin.methods.overlap`).

Every method here is a collective: all ranks call it, in the same order. Vectors are those of the clients that live
on this rank; everything that is said about all participants (ids, masks, collaborators, weights) is the same on
every rank. The server is spread over the ranks: each acts for the clients that live there. So what the server sends
stays on its rank, while what a client sends travels to the ranks whose clients use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from fedpurin.config import ExchangeConfig
from fedpurin.exchange import dense, whole
from fedpurin.exchange.ledger import Ledger
from fedpurin.exchange.masks import close_masks, mask_message_bytes, share_masks
from fedpurin.exchange.processes import Processes
from fedpurin.exchange.setting import Masks, Setting, Vectors
from fedpurin.exchange.sparse import Fill, Normalise, SparseRound
from fedpurin.exchange.whole import Received, Update
from fedpurin.exchange.wire.channel import Channel
from fedpurin.exchange.wire.codes import Code
from fedpurin.exchange.wire.costs import VALUE_BYTES, dense_bytes
from fedpurin.exchange.wire.header import Kind, ValueType
from fedpurin.space import Layout, unpack_mask


class Exchange:
    """One run's exchange over the shared parameters of `layout`, which vectors begin with."""

    def __init__(self, config: ExchangeConfig, layout: Layout, processes: Processes, ledger: Ledger) -> None:
        self.config, self.layout, self.processes, self.ledger = config, layout, processes, ledger
        self.setting = Setting(
            round=-1,
            layout=layout,
            processes=processes,
            ledger=ledger,
            value_type=ValueType.named(config.value_dtype),
            bucket_bytes=int(config.bucket_mib * 2**20),
            participants=(),
        )
        self._opened: dict[int, Channel] = {}

    def begin_round(self, round_number: int, participants: Sequence[int]) -> None:
        """Name the clients that take part in what follows, in ascending id.

        May be called again in the same round with fewer clients, say without those that diverged: what the round
        is compared with (`Ledger.set_baseline`) is what the last call says.
        """
        if list(participants) != sorted(set(participants)):
            raise ValueError(f"participants {list(participants)} are not in ascending order, each once")
        self.setting = replace(self.setting, round=round_number, participants=tuple(participants))
        self._opened = {}
        dense = dense_bytes(self.layout, VALUE_BYTES["float32"])  # what 16-bit values save shows in the comparison
        packed = mask_message_bytes(self.layout, self.setting.grid.num_blocks)
        self.ledger.set_baseline(round_number, self.setting.own, dense_bytes=dense, mask_bytes=packed)

    def share_masks(self, masks: Masks, *, alone: bool = False) -> dict[int, UInt8[Tensor, " packed"]]:
        """Send own clients' packed masks up, and return every participant's as decoded.

        With `exchange: direct` a mask opens the message that `combine` completes with the values, unless it goes `alone`.
        """
        direct = self.config.mode == "direct" and not alone
        shared, opened = share_masks(self.setting, masks, Kind.UPDATE if direct else Kind.MASK)
        if direct:
            self._opened = opened
        return shared

    def combine(
        self,
        vectors: Vectors,
        masks: Masks,
        collaborators: Mapping[int, Sequence[int]],
        *,
        normalise: Normalise = "collaborators",
        fill: Fill = "local",
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """METHOD steps 6 and 7: merge collaborators' critical values into own clients' vectors, in place.

        Args:
            masks: every participant's, as `share_masks` returned them.
            collaborators: C_i of every participant, itself included, ascending.
            weights: numbers of training samples, which `fill: global` needs.

        Raises:
            ValueError: a critical value that is not finite, or too large for `exchange.value_dtype`.
        """
        if fill == "global" and weights is None:
            raise ValueError("method.fill=global needs the clients' numbers of samples (weights)")
        if self.config.mode == "direct" and not self._opened:
            raise ValueError("combine completes the messages that share_masks opened, once; there are none")
        sparse = SparseRound(
            self.setting,
            vectors,
            masks,
            collaborators,
            normalise=normalise,
            weights=weights if fill == "global" else None,
            opened=self._opened if self.config.mode == "direct" else None,
        )
        for span in self.setting.buckets():
            sparse.run(span)
        sparse.close()
        self._opened = {}

    def combine_dense(
        self,
        vectors: Vectors,
        masks: Masks,
        collaborators: Mapping[int, Sequence[int]],
        *,
        weights: Mapping[int, float],
    ) -> None:
        """FedCAC: (1/|C_i|) Σ_{j∈C_i} w_j where i is critical, elsewhere Σ_j (s_j/Σs)·w_j over all; in place.

        Vectors go up dense and come down dense; the masks went up by `share_masks`.
        """
        if self._opened:
            close_masks(self.setting, self._opened)
            self._opened = {}
        dense.mix(self.setting, vectors, masks, collaborators, weights)

    def mix(self, vectors: Vectors, weigh: dense.Weigh) -> Float64[Tensor, "clients clients"]:
        """Give every participant i its own mixture Σ_j ξ_ij·w_j of all participants' vectors, in place; returns ξ.

        `weigh` makes ξ from ‖w_i − w_j‖², both in the order of the participants. Vectors go up and mixtures come down dense.
        """
        return dense.mix_by_distance(self.setting, vectors, weigh)

    def average(
        self, vectors: Vectors, weights: Mapping[int, float], *, deliver: bool = True
    ) -> Float32[Tensor, " length"]:
        """FedAvg: the mean of all participants' shared parameters, weighted by `weights` (say, samples).

        Σ (s_j/Σs)·w_j in ascending id, each product and each sum in float32: the same bits on any number of ranks.
        Vectors go up dense; with `deliver` the mean comes down dense into own participants' vectors. Returns the mean.
        """
        return dense.average(self.setting, vectors, weights, deliver)

    def download(self, vector: Float32[Tensor, " any_length"], clients: Sequence[int]) -> Float32[Tensor, " length"]:
        """Send `vector`'s shared part from the server to `clients`, dense, and return what arrives at each.

        For clients that sat out and catch up; they need not be participants. 16-bit values arrive rounded.
        """
        return dense.download(self.setting, vector, clients)

    def gather(
        self, updates: Mapping[int, Update], *, code: Code | None = None, layout: Layout | None = None
    ) -> Iterator[tuple[int, Received]]:
        """Every participant's update, which own clients send up, as one message each; in ascending id, on every rank.

        Exhaust the iterator: it is a series of collectives. `layout` is that of statistics which are no parameters
        (say, one segment of class means); `code` what all updates are coded with, which the server knows. Values
        without a code travel as `exchange.value_dtype`.
        """
        setting = self.setting if layout is None else replace(self.setting, layout=layout)
        return whole.gather(setting, updates, code=code, phase="values")

    def send_to_peers(
        self, updates: Mapping[int, Update], senders: Mapping[int, Sequence[int]]
    ) -> Iterator[tuple[int, Received]]:
        """Send own clients' updates to other clients, without a server: client i receives those of `senders[i]`.

        Yields every participant's update, in ascending id, on every rank, for the method to give to those who receive it;
        the simulator moves it once. The ledger counts each message as often as it is sent (`peers`), up with its sender
        and down with its receiver. Exhaust the iterator: it is a series of collectives.
        """
        return whole.send_to_peers(self.setting, updates, senders)

    def average_updates(
        self,
        updates: Mapping[int, Update],
        weights: Mapping[int, float],
        *,
        code: Code | None = None,
        divide_by: Literal["all", "senders"] = "all",
        layout: Layout | None = None,
    ) -> tuple[Float32[Tensor, " length"], Float32[Tensor, " length"]]:
        """Σ_j s_j·u_j over everybody's updates u_j, divided by Σ_j s_j over `all`, or over those who sent a value there.

        The second result is the share of the weights of those who sent a value, zero where nobody did. Sums run in
        ascending id, each product and sum in float32: the same bits on any number of ranks.
        """
        everybody = sum(weights[client] for client in self.setting.participants)
        length = (layout or self.layout).length
        total = torch.zeros(length, dtype=torch.float32, device=self.processes.device)
        senders = torch.zeros_like(total)
        for client, received in self.gather(updates, code=code, layout=layout):
            share = weights[client] / everybody
            total += share * received.vector
            senders += share * unpack_mask(received.mask)
        if divide_by == "senders":
            total = torch.where(senders > 0, total / torch.where(senders > 0, senders, 1.0), 0.0)
        return total, senders

    def answer(self, updates: Mapping[int, Update], *, layout: Layout | None = None) -> dict[int, Received]:
        """The server's update for each of these clients of this rank, as it arrives there."""
        setting = self.setting if layout is None else replace(self.setting, layout=layout)
        return whole.answer(setting, updates, phase="sums")

    def rounded(self, update: Update) -> Float32[Tensor, " length"]:
        """What arrives where this update is sent: everybody may compute it, without a message."""
        return whole.rounded(self.setting, update)

    def common(self, vector: Float32[Tensor, " any_length"] | None) -> Float32[Tensor, " length"]:
        """What all participants hold in common (say, the initial weights), also where none of them lives.

        A rank with participants gives one's `vector`. Nothing is sent in the simulated federation, so nothing counts.
        """
        length, device = self.layout.length, self.processes.device
        common = torch.empty(length, device=device) if vector is None else vector[:length].clone()
        self.processes.broadcast(common, self.processes.owner(self.setting.participants[0]))
        return common
