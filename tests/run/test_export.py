"""An exported client is the client: in plain PyTorch, in safetensors, and through Lightning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedpurin.__main__ import main
from tests.methods.tiny import TEST, Tiny, simulate


class Tied(Tiny):
    """Two names for one weight, and one that no client trains."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.net[0]
        self.frozen = nn.Parameter(torch.arange(3.0), requires_grad=False)


@pytest.mark.parametrize("module", [Tiny, Tied])
def test_a_client_is_exported_as_it_is(tmp_path: Path, module: type[Tiny]) -> None:
    result = simulate(tmp_path, "method=fedpurin", "checkpoint.every=2", module=module())
    assert main(["export", str(tmp_path), "--client", "3"]) == 0
    trainer, client = result.federation.trainer, result.federation.clients[3]
    trainer.load(client)
    expected = trainer.module.eval()(TEST.tensors[0])

    umask = os.umask(0o027)
    os.umask(umask)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (tmp_path / "export").iterdir()}
    assert modes == {".safetensors": 0o666 & ~umask, ".ckpt": 0o666 & ~umask}

    plain = module()
    plain.load_state_dict(load_file(tmp_path / "export" / "client-3.safetensors"))
    assert torch.equal(plain.eval()(TEST.tensors[0]), expected)
    again = module.load_from_checkpoint(tmp_path / "export" / "client-3.ckpt", weights_only=True)
    assert torch.equal(again.eval()(TEST.tensors[0]), expected)
    loaded = torch.load(tmp_path / "export" / "client-3.ckpt", weights_only=True)["state_dict"]
    assert loaded.keys() == module().state_dict().keys()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--client", "0"]) == 2
    assert "has no sound checkpoint (kept: none" in capsys.readouterr().err
    simulate(tmp_path, "method=local", "checkpoint.every=1")
    for arguments, message in (
        (["--client", "9"], "--client 9: the run has clients 0 to 3"),
        (["--client", "0", "--rounds", "7"], "has no checkpoint after 7 rounds (kept: 2, 1"),
        (["--client", "0", "--output", "/dev/null/x"], "--output /dev/null/x cannot be written"),
    ):
        capsys.readouterr()
        assert main(["export", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err
