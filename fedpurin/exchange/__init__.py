"""Encoded updates, sparse collectives and the byte ledger. torch.distributed lives here only.

`exchange.py` is what a method calls; docs/exchange.md lists the files in reading order.
"""

from fedpurin.exchange.exchange import Exchange
from fedpurin.exchange.ledger import Ledger
from fedpurin.exchange.processes import Processes, RankLostError, close_at_exit, give_up_ranks, ranks_are_lost
from fedpurin.exchange.whole import Received, Update

__all__ = [
    "Exchange", "Ledger", "Processes", "RankLostError", "Received", "Update", "close_at_exit", "give_up_ranks",
    "ranks_are_lost",
]  # fmt: skip
