"""Encoded updates, sparse collectives and the byte ledger. torch.distributed lives here only.

`exchange.py` is what a method calls; docs/exchange.md lists the files in reading order.
"""

from fedpurin.exchange.exchange import Exchange
from fedpurin.exchange.ledger import Ledger
from fedpurin.exchange.processes import Processes, RankLostError
from fedpurin.exchange.whole import Received, Update

__all__ = ["Exchange", "Ledger", "Processes", "RankLostError", "Received", "Update"]
