"""Run folders that look like real ones, made in milliseconds from a seed: for tests and for benchmarks/report.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from fedpurin.run.record import CLIENT_COLUMNS

TARGETS = {
    "local": "Local", "fedavg": "FedAvg", "fedper": "FedPer", "fedcac": "FedCAC", "ditto": "Ditto",
    "fedpurin": "FedPURIN", "fedpurin_recommended": "FedPURIN",
}  # fmt: skip
LEVEL = {"local": 0.78, "fedavg": 0.83, "fedper": 0.86, "fedpurin": 0.84, "fedpurin_recommended": 0.9}
TENSORS = [f"layer{index // 2 + 1}.{'bias' if index % 2 else 'weight'}" for index in range(8)]
DENSE_BYTES = 4_000_000
NUM_SHARED = DENSE_BYTES // 4
KEPT = {"fedper": 250_000}
"""Parameters beside the shared ones."""
OVERLAP_ROUNDS = 4


@dataclass(frozen=True)
class Spec:
    """What to pretend. `options` are dotted, on top of the defaults; `stop` ends the run before its last round."""

    method: str = "fedpurin"
    seed: int = 1
    rounds: int = 12
    clients: int = 6
    classes: int = 4
    stop: int | None = None
    masks: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def write_run(folder: Path, spec: Spec) -> Path:
    """Write every file of one run."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng([spec.seed, sum(map(ord, spec.method))])
    OmegaConf.save(_config(spec), folder / "config.yaml")
    shares = np.random.default_rng(spec.seed).dirichlet(np.full(spec.classes, 0.5), size=spec.clients)
    counts = np.round(shares * 200).astype(int).tolist()
    names = [f"class {index}" for index in range(spec.classes)]
    _write_json(folder / "partition.json", {"class_names": names, "train": counts, "test": counts})
    done = spec.rounds if spec.stop is None else spec.stop
    tau = float(spec.options.get("program.tau", 0.5))
    sparse = spec.method.startswith("fedpurin")
    skill = draw.normal(0, 0.05, spec.clients)
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "clients.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, CLIENT_COLUMNS, restval="")
        writer.writeheader()
        for number in range(done):
            rows = [_row(spec, number, client, skill[client], draw, tau, sparse) for client in range(spec.clients)]
            writer.writerows(rows)
            metrics.write(json.dumps(_record(number, rows)) + "\n")
    if sparse and spec.masks:
        _write_masks(folder / "masks.jsonl", spec, done, draw, tau)
    sizes = {"num_parameters": NUM_SHARED + KEPT.get(spec.method, 0), "num_shared": NUM_SHARED}
    _write_json(folder / "summary.json", {"status": "finished" if done == spec.rounds else "running", **sizes})
    return folder


def _config(spec: Spec) -> DictConfig:
    config = OmegaConf.create(
        {
            "data": {"name": "digits", "root": None},
            "partition": {"name": "dirichlet", "num_clients": spec.clients, "alpha": 0.5},
            "model": {"_target_": "lightning_modules.ImageClassifier", "lr": 0.1},
            "method": {"_target_": f"fedpurin.methods.{TARGETS[spec.method]}"},
            "trainer": {"rounds": spec.rounds, "local_epochs": 5, "devices": 1},
            "program": {"name": "layerwise", "tau": 0.5},
            "scores": {"order": "second", "source": "gradient"},
            "seed": spec.seed,
            "network": None,
            "name": "a name that says nothing",
            "choices": {"method": spec.method},
        }
    )
    if spec.method.startswith("fedpurin"):
        overlap = "published" if spec.method == "fedpurin" else "dice"
        config.merge_with({"method": {"beta": 100, "overlap": overlap}})
    for option, value in spec.options.items():
        OmegaConf.update(config, option, value, force_add=True)
    return config


def _row(spec: Spec, number: int, client: int, skill: float, draw: Any, tau: float, sparse: bool) -> dict[str, Any]:
    progress = 1 - np.exp(-3 * (number + 1) / spec.rounds)
    level = LEVEL.get(spec.method, 0.8) + (0.05 * (tau - 0.5) if sparse else 0.0)
    accuracy = float(np.clip(0.3 + (level + skill - 0.3) * progress + draw.normal(0, 0.01), 0, 1))
    row: dict[str, Any] = {
        "round": number, "client": client, "rank": 0, "num_train": 200, "diverged": "", "loss/train": 1 - accuracy,
        "accuracy/personalized": accuracy, "accuracy/merged": accuracy - 0.01, "fit/seconds": 0.5,
    }  # fmt: skip
    if spec.method == "local":
        return row | {"bytes/up": 0, "bytes/down": 0}
    density = tau * (0.5 + 0.5 * np.exp(-number / spec.rounds))
    values = int(DENSE_BYTES * density) if sparse else DENSE_BYTES
    mask = DENSE_BYTES // 32 if sparse else 0
    phase = "values" if sparse else "dense"
    row |= {"bytes/up": values + mask, f"bytes/up/{phase}": values, "bytes/up/mask": mask}
    row |= {"bytes/down": values, f"bytes/down/{phase}": values}
    row |= {"bytes/dense_up": DENSE_BYTES, "bytes/dense_down": DENSE_BYTES}
    if sparse:
        row |= {
            "accuracy/sparse": accuracy - 0.03, "mask/density": density, "mask/null": 0.1, "program/status": "optimal",
            "program/gap": 0.0, "program/core": int(draw.integers(5, 40)),
            "program/seconds": float(draw.gamma(4, 0.01)),
        }  # fmt: skip
    return row


def _record(number: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {"round": number, "clients/participating": len(rows), "clients/diverged": 0}
    for name in ("personalized", "sparse", "merged"):
        values = [row[f"accuracy/{name}"] for row in rows if f"accuracy/{name}" in row]
        record[f"accuracy/{name}"] = float(np.mean(values)) if values else None
    if "mask/density" in rows[0]:
        record["mask/density"] = float(np.mean([row["mask/density"] for row in rows]))
        record["program/gap"] = max(row["program/gap"] for row in rows)
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith("bytes/")):
        record[name] = sum(row[name] for row in rows)
    return record


def _write_masks(path: Path, spec: Spec, done: int, draw: Any, tau: float) -> None:
    """Densities that fall, masks that settle, overlaps in two blocks."""
    ids = list(range(spec.clients))
    lines: list[dict[str, Any]] = [
        {"tensors": TENSORS, "sizes": [1000] * len(TENSORS), "overlap": "dice", "horizon": 100}
    ]
    chosen = set(np.linspace(0, done - 1, OVERLAP_ROUNDS).astype(int).tolist())
    for number in range(done):
        density = (tau * (1 - 0.5 * number / spec.rounds * draw.random(len(TENSORS)))).round(5).tolist()
        moved = (0.6 / (1 + number) + 0.05 * draw.random(len(TENSORS))).round(5).tolist()
        line: dict[str, Any] = {
            "round": number, "clients": spec.clients, "density": density, "density/all": float(np.mean(density)),
            "moved": moved if number else [None] * len(TENSORS), "moved/all": float(np.mean(moved)) if number else None,
        }  # fmt: skip
        if number in chosen:
            same = np.equal.outer(np.arange(spec.clients) % 2, np.arange(spec.clients) % 2)
            overlap = (0.5 + 0.3 * same + 0.05 * draw.random((spec.clients, spec.clients))).round(5).tolist()
            for client_id in ids:
                overlap[client_id][client_id] = None
            groups = {str(client_id): [other for other in ids if other % 2 == client_id % 2] for client_id in ids}
            line |= {"ids": ids, "overlap": overlap, "collaborators": groups}
        lines.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
