"""Terminals and locales that cannot show every sign: a run and the commands around it, from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMANDS = """
import sys
from fedpurin.__main__ import main
deal = ["data=image_folder", "data.root=images", "model=mlp", "partition=iid", "partition.num_clients=2",
        "partition.train_per_client=null", "partition.test_per_client=null"]
codes = [main(["partition", *deal]),
         main([*deal, "trainer.rounds=2", "trainer.local_epochs=1", "hydra.run.dir=run"]),
         main(["list", "."]), main(["export", "run", "--client", "0"]), main(["--help"]),
         main(["report", "run"]), main(["reproduce", "--status"]) // 2, main(["sweep", "expand", "sweep.yaml"]),
         main(["resume", "run", "trainer.rounds=3"])]
sys.exit(str(codes) if any(codes) else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    ],
)
def test_every_command_ends_well_where_a_sign_cannot_be_shown(tmp_path: Path, locale: dict[str, str]) -> None:
    for split in ("train", "test"):
        for number in range(12):
            path = tmp_path / "images" / split / ("猫", "Öl – µ")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number * 9).save(path)
    sweep = "program: fedpurin\nmethod: grid\nparameters:\n  name:\n    values: ['Öl', 'µ b']\n"
    (tmp_path / "sweep.yaml").write_text(sweep, encoding="utf-8")
    environment = {**os.environ, **locale}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
