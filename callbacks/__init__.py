"""Lightning callbacks: thin listeners of the federated loop and of each client's fit."""

from callbacks.mask_selection import MaskSelection
from callbacks.mask_statistics import MaskStatistics
from callbacks.progress import Progress

__all__ = ["MaskSelection", "MaskStatistics", "Progress"]
