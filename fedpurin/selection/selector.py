"""Interim: the layerwise program on the tie core."""

from __future__ import annotations

import math
import time

import cvxpy as cp
import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.exchange.costs import upload_overhead_bytes
from fedpurin.selection.certificate import Certificate, Selection
from fedpurin.space import Layout, pack_mask


class Selector:
    def __init__(
        self,
        layout: Layout,
        program: ProgramConfig,
        *,
        value_bytes: int = 4,
        overhead_bytes: int = upload_overhead_bytes("on_demand"),
    ) -> None:
        if program.solver not in cp.installed_solvers():
            raise ConfigError(f"program.solver={program.solver!r} is not installed; there are {cp.installed_solvers()}")
        if program.name != "layerwise":
            raise ConfigError(f"program.name={program.name!r} is not implemented yet")
        self.layout, self.program = layout, program
        count = len(layout)
        self._taken = cp.Variable(count, integer=True)
        self._value, self._ties, self._room = (cp.Parameter(count, nonneg=True) for _ in range(3))
        self._problem = cp.Problem(
            cp.Maximize(self._value @ self._taken),
            [self._taken >= 0, self._taken <= self._ties, self._taken <= self._room],
        )

    def solve(self, scores: Float32[Tensor, " length"]) -> Selection:
        start = time.perf_counter()
        if scores.shape != (self.layout.length,):
            raise ValueError(f"got scores of shape {tuple(scores.shape)}; the layout needs ({self.layout.length},)")
        values = scores.detach().cpu().numpy()
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError("scores must be finite and not negative")
        count = len(self.layout)
        thresholds, ties, rooms = np.zeros(count), np.zeros(count), np.zeros(count)
        for index, segment in enumerate(self.layout):
            part = values[segment.slice]
            part = np.sort(part[part > 0])[::-1]
            k = min(math.floor(self.program.tau * segment.size), len(part))
            if k:
                thresholds[index] = part[k - 1]
                ties[index] = (part == part[k - 1]).sum()
                rooms[index] = k - (part > part[k - 1]).sum()
        scale = thresholds.max() or 1.0
        self._value.value, self._ties.value, self._room.value = thresholds / scale, ties, rooms
        reduced = time.perf_counter()
        self._problem.solve(solver=self.program.solver)
        solved = time.perf_counter()
        taken = np.rint(self._taken.value).astype(int)
        mask = np.zeros(len(values), dtype=bool)
        for index, segment in enumerate(self.layout):
            part = values[segment.slice]
            if thresholds[index] > 0:
                chosen = part > np.float32(thresholds[index])
                chosen[np.flatnonzero(part == np.float32(thresholds[index]))[: taken[index]]] = True
                mask[segment.slice] = chosen
        objective = float(values[mask].sum(dtype=np.float64))
        boolean = torch.from_numpy(mask).to(scores.device)
        certificate = Certificate(
            status="optimal",
            objective=objective,
            upper_bound=objective,
            gap=0.0,
            num_selected=int(mask.sum()),
            num_null=self.layout.size - int((values > 0).sum()),
            core_size=int((ties > 0).sum()),
            reduction_seconds=reduced - start,
            building_seconds=0.0,
            solver_seconds=solved - reduced,
            total_seconds=time.perf_counter() - start,
        )
        return Selection(pack_mask(boolean), boolean, certificate)
