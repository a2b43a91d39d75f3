"""The ledger: bytes that encoders returned, per client, round, direction, phase and encoding.

Owns: adding up, and the dense exchange and FedCAC's that the run is compared with. Does not own: measuring (the
exchange records the lengths of real messages), the bytes that the simulator moved between ranks (`Processes`).

Each rank records its own clients; `gather` adds every rank's records. Rounds are kept one by one for the last
KEPT_ROUNDS, older ones only in the cumulative account, so the ledger does not grow with the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from fedpurin.exchange.processes import Processes

Direction = Literal["up", "down"]
Phase = Literal["mask", "request", "values", "sums", "dense", "peers"]
"""What a message is for. `peers` goes from client to client: up with its sender, once for each receiver, and down with
each receiver; all else goes to the server or comes from it."""
KEPT_ROUNDS = 3
BASELINES = ("dense_up", "dense_down", "fedcac_up", "fedcac_down")

Account = Counter[str]
"""Bytes by `direction/phase/encoding`, and those of the baselines."""


class Ledger:
    """Bytes sent and received by clients."""

    def __init__(self) -> None:
        self._rounds: dict[int, dict[int, Account]] = {}
        self._cumulative: dict[int, Account] = {}

    def record(
        self, round_number: int, client: int, direction: Direction, phase: Phase, by_encoding: Mapping[str, int]
    ) -> None:
        """File one message, or one phase's share of it: encoded bytes by encoding (`header` among them)."""
        entries = {f"{direction}/{phase}/{encoding}": count for encoding, count in by_encoding.items() if count}
        self._add(round_number, client, entries)

    def set_baseline(self, round_number: int, clients: Collection[int], *, dense_bytes: int, mask_bytes: int) -> None:
        """Say what the round is compared with: dense exchange, and FedCAC's (dense and a packed mask up).

        Of several calls in one round the last one counts.
        """
        accounts = self._rounds.get(round_number, {})
        for client, account in list(accounts.items()):
            said = _baselines(account)
            self._cumulative[client].subtract(said)
            accounts[client] = _entries(account)
            if not accounts[client]:
                del accounts[client]
        costs = (dense_bytes, dense_bytes, dense_bytes + mask_bytes, dense_bytes)
        for client in clients:
            self._add(round_number, client, dict(zip(BASELINES, costs, strict=True)))

    def _add(self, round_number: int, client: int, num_bytes: Mapping[str, int]) -> None:
        if round_number not in self._rounds:
            for old in sorted(self._rounds)[: max(len(self._rounds) + 1 - KEPT_ROUNDS, 0)]:
                del self._rounds[old]
            self._rounds[round_number] = {}
        for accounts in (self._rounds[round_number], self._cumulative):
            accounts.setdefault(client, Counter()).update(num_bytes)

    def by_entry(self, round_number: int | None = None) -> Account:
        """Bytes by `direction/phase/encoding`, of one kept round or, by default, of the whole run."""
        return _entries(_sum((self._cumulative if round_number is None else self._round(round_number)).values()))

    def round_totals(self, round_number: int) -> dict[str, int]:
        """One round over all clients, under the run folder's names.

        `bytes/up`, `bytes/up/mask`, `bytes/up/mask/bitmap`, …; `bytes/dense_up` and the other baselines.
        """
        by_encoding = {f"bytes/{name}": num_bytes for name, num_bytes in self.by_entry(round_number).items()}
        return _named(_sum(self._round(round_number).values())) | by_encoding

    def client_rows(self, round_number: int) -> dict[int, dict[str, int]]:
        """Bytes by direction and phase, and baselines, of each client that took part, by ascending id."""
        return {client: _named(account) for client, account in sorted(self._round(round_number).items())}

    def cumulative(self) -> dict[str, int]:
        """The whole run over all clients, under the same names."""
        return _named(_sum(self._cumulative.values()))

    def gather(self, processes: Processes) -> Ledger:
        """A ledger with every rank's records. A collective: all ranks call it."""
        merged = Ledger()
        for rounds, cumulative in processes.gather_objects((self._rounds, self._cumulative)):
            for round_number, accounts in rounds.items():
                merged._rounds.setdefault(round_number, {}).update(_counters(accounts))
            merged._cumulative.update(_counters(cumulative))
        return merged

    def state_dict(self) -> dict[str, Any]:
        """The cumulative account as plain numbers and strings, for a checkpoint."""
        return {
            "entries": {str(client): dict(_entries(account)) for client, account in self._cumulative.items()},
            "baselines": {str(client): dict(_baselines(account)) for client, account in self._cumulative.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], clients: Collection[int] | None = None) -> None:
        """Continue from `state_dict`; a rank of several names the clients that are its own."""
        self._rounds, self._cumulative = {}, {}
        for accounts in (state["entries"], state["baselines"]):
            for key, num_bytes in accounts.items():
                if clients is None or int(key) in clients:
                    self._cumulative.setdefault(int(key), Counter()).update(num_bytes)

    def _round(self, round_number: int) -> dict[int, Account]:
        """The round's accounts; empty where nobody of this rank took part."""
        if self._rounds and round_number < min(self._rounds):
            kept = ", ".join(map(str, sorted(self._rounds)))
            raise ValueError(f"round {round_number} is not kept one by one; kept: {kept}")
        return self._rounds.get(round_number, {})


def _entries(account: Account) -> Account:
    return Counter({name: num_bytes for name, num_bytes in account.items() if name not in BASELINES})


def _baselines(account: Account) -> Account:
    return Counter({name: num_bytes for name, num_bytes in account.items() if name in BASELINES})


def _counters(accounts: Mapping[int, Mapping[str, int]]) -> dict[int, Account]:
    return {client: Counter(account) for client, account in accounts.items()}


def _sum(accounts: Iterable[Account]) -> Account:
    total: Account = Counter()
    for account in accounts:
        total.update(account)
    return total


def _named(account: Account) -> dict[str, int]:
    names: Counter[str] = Counter({"bytes/up": 0, "bytes/down": 0})
    for name, num_bytes in _entries(account).items():
        direction, phase, _ = name.split("/")
        names[f"bytes/{direction}"] += num_bytes
        names[f"bytes/{direction}/{phase}"] += num_bytes
    return dict(names) | {f"bytes/{name}": num_bytes for name, num_bytes in _baselines(account).items()}
