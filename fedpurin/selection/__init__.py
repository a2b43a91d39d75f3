"""Scores, the critical-parameter program and its certified solution. CVXPY and its solvers live here only.

`scores.py`, then `programs.py`: the programs as CVXPY states them; docs/selection.md follows a solve through the files.
"""

from fedpurin.selection.certificate import Certificate, Selection
from fedpurin.selection.own import own_scores
from fedpurin.selection.scores import perturbation_scores
from fedpurin.selection.selector import Selector

__all__ = ["Certificate", "Selection", "Selector", "own_scores", "perturbation_scores"]
