"""The ledger: bytes that encoders returned, per client, round, direction, phase and encoding.

Owns: adding up, and the dense exchange and FedCAC's that the run is compared with. Does not own: measuring (the
exchange records the lengths of real messages), the bytes that the simulator moved between ranks (`Processes`).

Each rank records its own clients; `gather` adds every rank's records. Rounds are kept one by one for the last
KEPT_ROUNDS, older ones only in the cumulative account, so the ledger does not grow with the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from fedpurin.exchange.processes import Processes

Direction = Literal["up", "down"]
Phase = Literal["mask", "request", "values", "sums", "dense", "peers"]
"""What a message is for. `peers` goes from client to client: up with its sender, once for each receiver, and down with
each receiver; all else goes to the server or comes from it."""
KEPT_ROUNDS = 3
BASELINES = ("dense_up", "dense_down", "fedcac_up", "fedcac_down")


class Entry(NamedTuple):
    """What a number of bytes is filed under."""

    direction: Direction
    phase: Phase
    encoding: str


class Ledger:
    """Bytes sent and received by clients. Accounts map entries to bytes."""

    def __init__(self) -> None:
        self._rounds: dict[int, dict[int, Counter[Entry]]] = {}
        self._baselines: dict[int, dict[int, Counter[str]]] = {}
        self._cumulative: dict[int, Counter[Entry]] = {}
        self._cumulative_baselines: dict[int, Counter[str]] = {}

    def record(
        self, round_number: int, client: int, direction: Direction, phase: Phase, bytes_by_encoding: Mapping[str, int]
    ) -> None:
        """File one message, or one phase's share of it: encoded bytes by encoding (`header` among them)."""
        entries = {
            Entry(direction, phase, encoding): num_bytes
            for encoding, num_bytes in bytes_by_encoding.items()
            if num_bytes
        }
        self._account(self._rounds, round_number, client).update(entries)
        self._cumulative.setdefault(client, Counter()).update(entries)

    def set_baseline(self, round_number: int, clients: Collection[int], *, dense_bytes: int, mask_bytes: int) -> None:
        """Say what the round is compared with: dense exchange, and FedCAC's (dense and a packed mask up).

        Of several calls in one round the last one counts.
        """
        for client, row in self._baselines.pop(round_number, {}).items():
            self._cumulative_baselines[client].subtract(row)
        costs = (dense_bytes, dense_bytes, dense_bytes + mask_bytes, dense_bytes)
        for client in clients:
            row = Counter(dict(zip(BASELINES, costs, strict=True)))
            self._account(self._baselines, round_number, client).update(row)
            self._cumulative_baselines.setdefault(client, Counter()).update(row)

    @staticmethod
    def _account(rounds: dict[int, dict[int, Counter[Any]]], round_number: int, client: int) -> Counter[Any]:
        if round_number not in rounds:
            for old in sorted(rounds)[: max(len(rounds) + 1 - KEPT_ROUNDS, 0)]:
                del rounds[old]
            rounds[round_number] = {}
        return rounds[round_number].setdefault(client, Counter())

    def by_entry(self, round_number: int | None = None) -> Counter[Entry]:
        """Bytes by direction, phase and encoding, of one kept round or, by default, of the whole run."""
        accounts = self._cumulative if round_number is None else self._round(round_number)
        total: Counter[Entry] = Counter()
        for account in accounts.values():
            total.update(account)
        return total

    def round_totals(self, round_number: int) -> dict[str, int]:
        """One round over all clients, under the run folder's names.

        `bytes/up`, `bytes/up/mask`, `bytes/up/mask/bitmap`, …; `bytes/dense_up` and the other baselines.
        """
        entries = self.by_entry(round_number)
        by_encoding = {f"bytes/{'/'.join(entry)}": num_bytes for entry, num_bytes in entries.items()}
        return _named(entries, _sum(self._baselines.get(round_number, {}))) | by_encoding

    def client_rows(self, round_number: int) -> dict[int, dict[str, int]]:
        """Bytes by direction and phase, and baselines, of each client that took part, by ascending id."""
        baselines = self._baselines.get(round_number, {})
        clients = sorted(self._round(round_number).keys() | baselines.keys())
        accounts = self._round(round_number)
        return {client: _named(accounts.get(client, Counter()), baselines.get(client, Counter())) for client in clients}

    def cumulative(self) -> dict[str, int]:
        """The whole run over all clients, under the same names."""
        return _named(self.by_entry(), _sum(self._cumulative_baselines))

    def gather(self, processes: Processes) -> Ledger:
        """A ledger with every rank's records. A collective: all ranks call it."""
        if processes.size == 1:
            return self
        merged = Ledger()
        accounts = (self._rounds, self._baselines, self._cumulative, self._cumulative_baselines)
        for rounds, baselines, cumulative, cumulative_baselines in processes.gather_objects(accounts):
            for round_number, clients in rounds.items():
                merged._rounds.setdefault(round_number, {}).update(
                    {client: _with_entries(account) for client, account in clients.items()}
                )
            for round_number, rows in baselines.items():
                merged._baselines.setdefault(round_number, {}).update(
                    {client_id: Counter(row) for client_id, row in rows.items()}
                )
            merged._cumulative.update({client: _with_entries(account) for client, account in cumulative.items()})
            merged._cumulative_baselines.update(
                {client_id: Counter(row) for client_id, row in cumulative_baselines.items()}
            )
        return merged

    def state_dict(self) -> dict[str, Any]:
        """The cumulative account as plain numbers and strings, for a checkpoint."""
        return {
            "entries": {
                str(client): {"/".join(entry): num_bytes for entry, num_bytes in account.items()}
                for client, account in self._cumulative.items()
            },
            "baselines": {str(client): dict(row) for client, row in self._cumulative_baselines.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], clients: Collection[int] | None = None) -> None:
        """Continue from `state_dict`; a rank of several names the clients that are its own."""
        self.__init__()  # type: ignore[misc]
        for key, account in state["entries"].items():
            if clients is None or int(key) in clients:
                self._cumulative[int(key)] = Counter(
                    {Entry(*name.split("/")): num_bytes for name, num_bytes in account.items()}
                )
        for key, row in state["baselines"].items():
            if clients is None or int(key) in clients:
                self._cumulative_baselines[int(key)] = Counter(row)

    def _round(self, round_number: int) -> dict[int, Counter[Entry]]:
        """The round's accounts; empty where nobody of this rank sent anything."""
        kept = sorted(self._rounds.keys() | self._baselines.keys())
        if kept and round_number < kept[0]:
            raise ValueError(f"round {round_number} is not kept one by one; kept: {', '.join(map(str, kept))}")
        return self._rounds.get(round_number, {})


def _with_entries(account: Mapping[Any, int]) -> Counter[Entry]:
    """An account that came from another rank, where entries travel as tuples."""
    return Counter({Entry(*entry): num_bytes for entry, num_bytes in account.items()})


def _sum(accounts: Mapping[int, Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for account in accounts.values():
        total.update(account)
    return total


def _named(entries: Counter[Entry], baselines: Counter[str]) -> dict[str, int]:
    names: Counter[str] = Counter({"bytes/up": 0, "bytes/down": 0})
    for entry, num_bytes in entries.items():
        names[f"bytes/{entry.direction}"] += num_bytes
        names[f"bytes/{entry.direction}/{entry.phase}"] += num_bytes
    names.update({f"bytes/{name}": num_bytes for name, num_bytes in baselines.items()})
    return dict(names)
