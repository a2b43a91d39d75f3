"""Something stands on the terminal before anything slow is imported.

Measured in the process itself and in seconds of the processor, which a loaded machine does not stretch as it does the
clock's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("torch", "lightning", "hydra", "omegaconf", "numpy", "pandas", "cvxpy", "matplotlib", "rich")
PROBE = """
import json, sys, time
class First:
    def __init__(self, stream): self.stream = stream
    def write(self, text):
        slow = [name for name in {slow!r} if name in sys.modules]
        sys.__stdout__.write(json.dumps([text, time.process_time(), slow]) + "\\n")
        sys.__stdout__.flush()
        import os
        os._exit(0)
    def flush(self): pass
sys.stdout, sys.stderr = First(sys.stdout), First(sys.stderr)
from fedpurin.__main__ import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trainer.rounds=1"],
        ["-m", "seed=1,2"],
        ["partition", "partition.alpha=0.1"],
        ["select", "--model", "cnn"],
        ["resume", "runs/none"],
        ["export", "runs/none", "--client", "0"],
    ],
)
def test_the_first_line_comes_before_anything_slow(tmp_path: Path, arguments: list[str]) -> None:
    code = PROBE.format(slow=SLOW, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    text, seconds, imported = json.loads(done.stdout)
    assert text == "fedpurin: loading PyTorch ..."
    assert imported == []
    assert seconds < 1.0
    assert list(tmp_path.iterdir()) == []
