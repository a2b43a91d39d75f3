"""Data sets, partitions, and batches held as tensors on the device."""

from fedpurin.data.dataset import LabelledData, labelled_data
from fedpurin.data.from_torch import from_datasets
from fedpurin.data.natural import owned
from fedpurin.data.partitions import Partition, partition
from fedpurin.data.pool import Pool
from fedpurin.data.samples import Samples
from fedpurin.data.sources import load

__all__ = [
    "LabelledData",
    "Partition",
    "Pool",
    "Samples",
    "from_datasets",
    "labelled_data",
    "load",
    "owned",
    "partition",
]
