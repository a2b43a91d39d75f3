"""Scores and programs from a function of the user's: `scores._target_` and `program._target_`.

Owns: what the two functions are offered, what they may return, and what is made of it. Does not own: finding and
calling them (fedpurin/own.py), the scores and programs of the paper (scores.py, cardinality.py, budget/program.py).
"""

from __future__ import annotations

import math
import time
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from fedpurin.config import ConfigError, ProgramConfig, ScoresConfig, name_of
from fedpurin.own import call_own, find_own
from fedpurin.selection.certificate import Certificate, Selection, Status
from fedpurin.space import Layout, pack_mask


def own_scores(
    fitted: Float32[Tensor, " length"],
    start: Float32[Tensor, " length"],
    gradient: Float32[Tensor, " length"],
    layout: Layout,
    config: ScoresConfig,
    generator: torch.Generator,
) -> Float32[Tensor, " length"]:
    """What `scores._target_` gives each shared parameter; at or below `scores.cutoff` it becomes null, exactly 0.0.

    Offered: `parameters` (w after local training), `start` (before it), `gradient` (of the last mini-batch), `layout`,
    `generator` (a CPU stream of this round and client), and the section's options.

    Raises:
        ConfigError: there is no such function, or it returned no float32 vector of this length, or negative scores.
    """
    offered = {"parameters": fitted, "start": start, "gradient": gradient, "layout": layout, "generator": generator}
    scores = call_own("scores", config.own, offered | _options(config))
    what = f"scores._target_={name_of(config.own['_target_'])}"
    if not isinstance(scores, Tensor) or scores.shape != fitted.shape or scores.dtype != torch.float32:
        raise ConfigError(f"{what} returned {_describe(scores)}; a float32 tensor of ({len(fitted)},) is needed")
    scores = scores.detach().to(fitted.device)
    if bool((scores < 0).any()):
        raise ConfigError(f"{what} returned {scores.min().item():.3g}; scores are not negative")
    cutoff = torch.tensor(config.cutoff, dtype=torch.float32, device=scores.device)
    return torch.where(scores <= cutoff, torch.zeros_like(scores), scores)  # NaN stays: the caller names the client


class OwnProgram:
    """The program that `program._target_` names, for one layout."""

    def __init__(self, layout: Layout, program: ProgramConfig, value_bytes: int, overhead_bytes: int) -> None:
        """Raises a ConfigError where there is no such function."""
        find_own("program", program.own["_target_"])
        self.config = program
        self.offered = {
            "layout": layout,
            "value_bytes": value_bytes,
            "overhead_bytes": overhead_bytes,
            **_options(program),
        }
        self.is_parameter = torch.zeros(layout.length, dtype=torch.bool)  # padding between tensors is none
        for segment in layout:
            self.is_parameter[segment.slice] = True

    def select(self, scores: Float32[Tensor, " length"]) -> Selection:
        """The mask that the function selects for these scores, without their nulls, and a certificate.

        It returns the mask, or (mask, upper bound of the objective). Without a bound the sum of all scores is one.

        Raises:
            ConfigError: it returned something else, or a bound below what its own mask reaches.
        """
        start = time.perf_counter()
        chosen = call_own("program", self.config.own, self.offered | {"scores": scores})
        what = f"program._target_={name_of(self.config.own['_target_'])}"
        mask, bound = chosen if isinstance(chosen, tuple) and len(chosen) == 2 else (chosen, None)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != scores.shape:
            raise ConfigError(
                f"{what} returned {_describe(mask)}; a bool tensor of ({len(scores)},), or it with an upper bound, is needed"
            )
        mask = self._without_nulls(mask.to(scores.device), scores)
        seconds = time.perf_counter() - start
        objective, total = (float(part.double().sum()) for part in (scores[mask], scores[self._valid(scores)]))
        upper = max(total, objective) if bound is None else float(bound)
        if not upper >= objective - 1e-6 * abs(objective):
            raise ConfigError(f"{what}: its bound {upper:.6g} is below the {objective:.6g} that its own mask reaches")
        upper = max(upper, objective)
        gap = 0.0 if upper <= objective * (1 + 1e-9) or math.isclose(upper, 0.0) else (upper - objective) / upper
        status: Status = "uncertified" if bound is None else "optimal" if gap == 0.0 else "within_bound"
        valid = int((self._valid(scores) & (scores > 0)).sum())
        certificate = Certificate(
            status=status,
            objective=objective,
            upper_bound=upper,
            gap=gap,
            num_selected=int(mask.sum()),
            num_null=int(self.is_parameter.sum()) - valid,
            core_size=0,
            reduction_seconds=0.0,
            building_seconds=0.0,
            solver_seconds=seconds,
            total_seconds=seconds,
        )
        return Selection(pack_mask(mask), mask, certificate)

    def _valid(self, scores: Tensor) -> Bool[Tensor, " length"]:
        self.is_parameter = self.is_parameter.to(scores.device)
        return self.is_parameter

    def _without_nulls(self, mask: Tensor, scores: Tensor) -> Bool[Tensor, " length"]:
        return mask & (scores > 0) & self._valid(scores)


def _options(config: ProgramConfig | ScoresConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in ("own", "name")}


def _describe(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
