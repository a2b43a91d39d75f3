"""Part 5: mask density by layer, how masks move, whose masks overlap and who collaborates with whom.

From `masks.jsonl` (callbacks/mask_statistics.py). Pictures of single runs take the first seed of a group.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedpurin.report.comparison import Comparison, Group
from fedpurin.report.figure import Axis, Figure, Grid, Line, Mark, Panel, Points, Remark, Section
from fedpurin.report.parts.accuracy import ROUND, quiet_first
from fedpurin.report.parts.overview import label_columns
from fedpurin.report.read import Array, MaskRound, Masks, Run
from fedpurin.report.style import Style
from fedpurin.report.table import Numbers

MAX_RUNS = 4
MAX_CHOSEN = 4
MAX_GRAPH_CLIENTS = 64
MAX_SETTINGS = 3


def section(comparison: Comparison) -> Section:
    groups = [group for group in comparison.groups if any(run.masks for run in group.runs)]
    items: list[Figure | Remark] = []
    if not groups:
        items.append(Remark("No run recorded masks: they need a method with masks and callbacks.mask_statistics."))
    else:
        pictured = _pictured(groups)
        items += [movement(groups), density_by_tensor(pictured), *overlap_figures(pictured)]
        left_out = len([group for group in groups if group.drawn]) - len(pictured)
        if left_out > 0:
            items.append(
                Remark(f"Pictures by tensor and by client are of {len(pictured)} groups, without {left_out} more.")
            )
    return Section("masks", "Masks", "Which parameters are critical, how that changes, and whom it joins.", items)


def movement(groups: list[Group]) -> Figure:
    """Density and moved share over rounds, all tensors together; a row of panels for each setting."""
    rows: list[list[Any]] = []
    panels = []
    for setting in dict.fromkeys(group.setting for group in groups):
        density: list[Mark] = []
        moved: list[Mark] = []
        for group in (group for group in groups if group.setting == setting):
            curve = group.curve("mask/density")
            density.append(Line(group.label, curve.rounds + 1, curve.mean, group.style, curve.low, curve.high))
            rounds, mean, std = _mean_moved([run.masks for run in group.runs if run.masks])
            moved.append(Line(group.label, rounds + 1, mean, group.style, mean - std, mean + std))
            for name, numbers, values in (("density", curve.rounds, curve.mean), ("moved", rounds, mean)):
                rows += [
                    [*label_columns(group), name, int(number) + 1, value]
                    for number, value in zip(numbers, values, strict=True)
                ]
        panels += [
            Panel(ROUND, Axis("Mask density", "share"), quiet_first(density), setting),
            Panel(ROUND, Axis("Moved since the previous mask", "share"), quiet_first(moved), setting),
        ]
    return Figure(
        "mask_movement",
        "How dense masks are, and how they move",
        "Density: share of the shared parameters that is critical. Moved: 1 − |m ∧ m′| / |m ∨ m′| between a client's mask "
        "and its previous one, mean over clients: 0 is the same mask, 1 is no parameter in common. Bands are ± one sample "
        "standard deviation over seeds.",
        panels[: 2 * MAX_SETTINGS],
        Numbers(("setting", "label", "figure", "round", "value"), rows),
        columns=2,
    )


def density_by_tensor(pictured: list[tuple[Group, Run, Masks]]) -> Figure:
    """Round by tensor, one panel a group."""
    rows: list[list[Any]] = []
    panels = []
    for group, run, masks in pictured:
        highest = max(float(np.nanmax(masks.density)), 1e-3)
        grid = Grid("density", masks.density.T, "share", 0.0, highest, x=masks.rounds + 1)
        tensors = Axis("", categories=tuple(_short_tensor(name) for name in masks.tensors))
        panels.append(
            Panel(
                ROUND, tensors, [grid], f"{group.full_label}, seed {run.seed}", rows=max(1.0, len(masks.tensors) / 22)
            )
        )
        rows += [
            [*label_columns(group), run.seed, int(number) + 1, name, density, moved]
            for number, densities, moves in zip(masks.rounds, masks.density, masks.moved, strict=True)
            for name, density, moved in zip(masks.tensors, densities, moves, strict=True)
        ]
    return Figure(
        "mask_density",
        "Density by tensor over rounds",
        "Share of each tensor's parameters that is critical, mean over clients. Tensors from input (top) to output.",
        panels,
        Numbers(("setting", "label", "seed", "round", "tensor", "density", "moved"), rows),
        legend=False,
        columns=2,
    )


def overlap_figures(pictured: list[tuple[Group, Run, Masks]]) -> list[Figure]:
    """Overlap matrices and collaboration graphs at the chosen rounds, a figure each for every group."""
    figures = []
    for index, (group, run, masks) in enumerate(pictured):
        chosen = _spread_out(masks.chosen)
        if not chosen:
            continue
        suffix = f"_{index + 1}" if len(pictured) > 1 else ""
        whose = f"{group.full_label}, seed {run.seed}"
        figures.append(_overlap_matrices(f"overlap{suffix}", whose, masks, chosen))
        graphs = [
            this_round for this_round in chosen if this_round.collaborators and len(this_round.ids) <= MAX_GRAPH_CLIENTS
        ]
        if graphs:
            figures.append(_graphs(f"collaboration{suffix}", whose, graphs))
    return figures


def _overlap_matrices(key: str, whose: str, masks: Masks, chosen: list[MaskRound]) -> Figure:
    finite = np.concatenate([this_round.overlap[np.isfinite(this_round.overlap)] for this_round in chosen])
    low, high = (float(np.quantile(finite, 0.02)), float(finite.max())) if len(finite) else (0.0, 1.0)
    panels = []
    for index, this_round in enumerate(chosen):
        names = tuple(str(client_id) for client_id in this_round.ids)
        axes = (Axis("Client j", categories=names), Axis("Client i", categories=names))
        grid = Grid("overlap", this_round.overlap, low=low, high=high, scale=index == len(chosen) - 1)
        panels.append(Panel(*axes, [grid], f"Round {this_round.round + 1}", square=True, rows=0.9))
    rows = [
        [this_round.round + 1, i, j, this_round.overlap[row, column], _joins(this_round, i, j)]
        for this_round in chosen
        for row, i in enumerate(this_round.ids)
        for column, j in enumerate(this_round.ids)
        if i != j
    ]
    return Figure(
        key,
        f"Overlap of masks: {whose}",
        f"O_ij ({masks.overlap_kind}) of every pair of clients at chosen rounds, on one scale.",
        panels,
        Numbers(("round", "client_i", "client_j", "overlap", "j_collaborates_with_i"), rows),
        legend=False,
        columns=MAX_CHOSEN,
    )


def _graphs(key: str, whose: str, chosen: list[MaskRound]) -> Figure:
    panels = []
    frame = Axis("", low=-1.25, high=1.25, hidden=True)
    for this_round in chosen:
        assert this_round.collaborators is not None, "the caller has looked"
        angle = {
            client_id: math.pi / 2 - 2 * math.pi * k / len(this_round.ids) for k, client_id in enumerate(this_round.ids)
        }
        one, both = _edges(this_round.collaborators)
        x, y = (np.array([turn(angle[client_id]) for client_id in this_round.ids]) for turn in (math.cos, math.sin))
        notes = [
            f"client {client_id}<br>" + _partners(this_round.collaborators[client_id], client_id)
            for client_id in this_round.ids
        ]
        nodes = Points(
            "", x, y, Style("c0", quiet=False), names=[str(client_id) for client_id in this_round.ids], notes=notes
        )
        kinds = (("one-sided", one, Style("c4", "dot")), ("mutual", both, Style("c2")))
        marks: list[Mark] = [Line(name, *_segments(edges, angle), style) for name, edges, style in kinds if edges]
        marks.append(nodes)
        title = f"Round {this_round.round + 1}: {len(both)} mutual, {len(one)} one-sided"
        panels.append(Panel(frame, frame, marks, title, square=True, rows=0.9))
    rows = [
        [this_round.round + 1, i, j]
        for this_round in chosen
        for i, group in (this_round.collaborators or {}).items()
        for j in group
        if j != i
    ]
    return Figure(
        key,
        f"Who collaborates: {whose}",
        "An edge joins two clients where one counts the other among those whose masks overlap enough with its own "
        "(docs/method.md, step 5); mutual where both do.",
        panels,
        Numbers(("round", "client_i", "client_j_in_C_i"), rows),
        columns=MAX_CHOSEN,
    )


def _pictured(groups: list[Group]) -> list[tuple[Group, Run, Masks]]:
    """The groups shown one by one, with the run that stands for each: of each method first one, the best first."""
    found = [
        (group, run, run.masks) for group in groups if group.drawn for run in group.runs[:1] if run.masks is not None
    ]
    best_first = sorted(found, key=lambda item: item[1].merit, reverse=True)
    first = {item[0].method: item for item in reversed(best_first)}
    rest = [item for item in best_first if item not in first.values()]
    kept = [*first.values(), *rest][:MAX_RUNS]
    return [item for item in found if item in kept]


def _mean_moved(several: list[Masks]) -> tuple[Array, Array, Array]:
    """Rounds, mean and sample standard deviation (0 for one seed) of the moved share, from the second mask on."""
    rounds = np.unique(np.concatenate([masks.rounds for masks in several]))
    table = np.full((len(several), len(rounds)), math.nan)
    for row, masks in zip(table, several, strict=True):
        row[np.searchsorted(rounds, masks.rounds)] = masks.moved_overall
    known = np.isfinite(table).any(axis=0)
    mean, count = np.nanmean(table[:, known], axis=0), np.isfinite(table[:, known]).sum(axis=0)
    squares = np.nansum((table[:, known] - mean) ** 2, axis=0)
    return rounds[known], mean, np.sqrt(squares / np.maximum(count - 1, 1))


def _spread_out(chosen: tuple[MaskRound, ...]) -> list[MaskRound]:
    """At most MAX_CHOSEN rounds, the first and the last among them."""
    if len(chosen) <= MAX_CHOSEN:
        return list(chosen)
    return [chosen[round(step)] for step in np.linspace(0, len(chosen) - 1, MAX_CHOSEN)]


def _short_tensor(name: str) -> str:
    return name.removeprefix("backbone.")


def _joins(chosen: MaskRound, i: int, j: int) -> bool | None:
    return None if chosen.collaborators is None else j in chosen.collaborators.get(i, ())


def _edges(groups: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """One-sided and mutual pairs, each once."""
    joins = {(i, j) for i, group in groups.items() for j in group if i != j}
    both = sorted((i, j) for i, j in joins if i < j and (j, i) in joins)
    return sorted((i, j) for i, j in joins if (j, i) not in joins), both


def _segments(edges: list[tuple[int, int]], angle: dict[int, float]) -> tuple[Array, Array]:
    """Edges as one broken line."""
    ends = [(angle[i], angle[j], math.nan) for i, j in edges]
    flat = np.array(ends).ravel()
    return np.cos(flat), np.sin(flat)


def _partners(group: tuple[int, ...], client_id: int) -> str:
    others = [str(partner) for partner in group if partner != client_id]
    return f"collaborates with {', '.join(others)}" if others else "collaborates with nobody"
