"""One file a method: what it shares, sends, aggregates and merges. `base.py` has the hooks."""

from fedpurin.methods.base import Method, Round
from fedpurin.methods.fedavg import FedAvg
from fedpurin.methods.fedbn import FedBN
from fedpurin.methods.fedcac import FedCAC
from fedpurin.methods.fedper import FedPer
from fedpurin.methods.fedpurin import FedPURIN
from fedpurin.methods.fedrep import FedRep
from fedpurin.methods.local import Local

__all__ = ["FedAvg", "FedBN", "FedCAC", "FedPURIN", "FedPer", "FedRep", "Local", "Method", "Round"]
