"""One file a method: what it shares, sends, aggregates and merges. `base.py` has the hooks."""

from fedpurin.methods.apfl import APFL
from fedpurin.methods.base import Method, Round
from fedpurin.methods.dispfl import DisPFL
from fedpurin.methods.ditto import Ditto
from fedpurin.methods.fedala import FedALA
from fedpurin.methods.fedamp import FedAMP
from fedpurin.methods.fedavg import FedAvg
from fedpurin.methods.fedbabu import FedBABU
from fedpurin.methods.fedbn import FedBN
from fedpurin.methods.fedcac import FedCAC
from fedpurin.methods.fedpac import FedPAC
from fedpurin.methods.fedpaq import FedPAQ
from fedpurin.methods.fedper import FedPer
from fedpurin.methods.fedpm import FedPM
from fedpurin.methods.fedproto import FedProto
from fedpurin.methods.fedprox import FedProx
from fedpurin.methods.fedpurin import FedPURIN
from fedpurin.methods.fedpurin_feedback import FedPURINFeedback
from fedpurin.methods.fedrep import FedRep
from fedpurin.methods.fedrod import FedRoD
from fedpurin.methods.fedselect import FedSelect
from fedpurin.methods.fedspa import FedSpa
from fedpurin.methods.local import Local
from fedpurin.methods.lotteryfl import LotteryFL
from fedpurin.methods.per_fedavg import PerFedAvg
from fedpurin.methods.pfedme import PFedMe
from fedpurin.methods.pfedsd import PFedSD
from fedpurin.methods.scaffold import Scaffold
from fedpurin.methods.sparsyfed import SparsyFed
from fedpurin.methods.stc import STC
from fedpurin.methods.sub_fedavg import SubFedAvg
from fedpurin.methods.topk import TopK

__all__ = [
    "APFL",
    "STC",
    "DisPFL",
    "Ditto",
    "FedALA",
    "FedAMP",
    "FedAvg",
    "FedBABU",
    "FedBN",
    "FedCAC",
    "FedPAC",
    "FedPAQ",
    "FedPM",
    "FedPURIN",
    "FedPURINFeedback",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedRep",
    "FedRoD",
    "FedSelect",
    "FedSpa",
    "Local",
    "LotteryFL",
    "Method",
    "PFedMe",
    "PFedSD",
    "PerFedAvg",
    "Round",
    "Scaffold",
    "SparsyFed",
    "SubFedAvg",
    "TopK",
]
