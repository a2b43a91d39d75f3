"""One file a method: what it shares, sends, aggregates and merges. `base.py` has the hooks."""

from fedpurin.methods.base import Method, Round
from fedpurin.methods.fedavg import FedAvg
from fedpurin.methods.fedpurin import FedPURIN
from fedpurin.methods.local import Local

__all__ = ["FedAvg", "FedPURIN", "Local", "Method", "Round"]
