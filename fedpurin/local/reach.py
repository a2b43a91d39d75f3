"""How far a constant gradient of one would have carried a fit: Σ over steps of learning rate times accumulated momentum.

A fit's displacement divided by its reach is a weighted mean of its gradients; for plain SGD the reach is Kη, what
SCAFFOLD divides by (Karimireddy et al., ICML 2020, arXiv 1910.06378, option II). Only SGD has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Reach:
    """Adds up over a fit's steps; `total` is NaN where the optimizer is not SGD of one rate for all parameters."""

    def __init__(self) -> None:
        self.total, self._velocity = 0.0, 0.0

    def step(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Count one optimizer step under these parameter groups' options."""
        options = {(group["lr"], group.get("momentum"), group.get("nesterov")) for group in groups}
        lr, momentum, nesterov = options.pop()
        if options or momentum is None or nesterov is None or groups[0].get("dampening"):
            self.total = math.nan
            return
        self._velocity = momentum * self._velocity + 1.0
        self.total += lr * (1.0 + momentum * self._velocity if nesterov else self._velocity)
