"""Run folders as `fedpurin` writes them, for studies: only the files and columns that fedpurin/study/ reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedpurin.study.plan import PlannedRun, Study, parse_study
from fedpurin.study.store import Store

TEXT = """
title: A study
question: Does b beat a?
base: [data=digits, trainer.rounds=2]
settings:
  easy: [partition.alpha=1.0]
  hard: [partition.alpha=0.1]
variants:
  a: [method=local]
  b: [method=fedavg]
seeds: [1, 2]
reference: a
comparisons:
  - {of: b, against: a}
figure: none
unknown: Everything else.
"""


def study(text: str = TEXT) -> Study:
    return parse_study("sample", text)


def write_run(store: Store, run: PlannedRun, finals: Sequence[float], *, megabytes: int = 3) -> Path:
    """A finished run of two rounds: every client at 0.5 first, then at `finals`."""
    folder = store.folder(run)
    folder.mkdir(parents=True)
    rows = [(number, client, 0.5 if number == 0 else final) for number in (0, 1) for client, final in enumerate(finals)]
    lines = [f"{number},{client},40,{value}" for number, client, value in rows]
    (folder / "clients.csv").write_text("\n".join(["round,client,num_train,accuracy/personalized", *lines, ""]))
    totals = {"total/bytes/up": megabytes * 10**6, "total/bytes/down": 0, "total/round/seconds": 1.5}
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "rounds": 2, **totals}))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "0.0"}}))
    return folder


def store_at(root: Path, code: str = "c0de") -> Store:
    return Store(root, code, {"data=digits": "da7a"})
