"""A run folder from somebody else names no code that `fedpurin resume` runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from fedpurin.__main__ import main
from fedpurin.run.compose import compose_config
from fedpurin.run.trust import TRUSTED, foreign

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", [
    "fedpurin.methods.FedPURIN", "fedpurin.methods.mine.Mine", "callbacks.Progress", "callbacks.tracking.WandbTracker",
    "lightning_modules.ImageClassifier", "lightning_modules.backbones.resnet8", "torch.nn.Linear", "torch.optim.SGD",
    "lightning_modules.backbones.vit.vit_b_16", "torchvision.models.resnet18",
])  # fmt: skip
def test_what_fedpurin_itself_writes_is_trusted(target: str) -> None:
    assert TRUSTED.fullmatch(target)


@pytest.mark.parametrize("target", [
    "os.system", "subprocess.Popen", "my_package.MyModule", "torch.os.system", "torch.hub.load", "torch.load",
    "fedpurin.__main__.main", "fedpurin.run.record.write_json", "callbacks.tracking.threading.Thread",
    "torch.nn.modules.module.os.system", "torch.distributed.elastic.multiprocessing.SubprocessHandler",
    "lightning_modules.backbones.resnet.nn.init.torch.os.system", "torch.nn.Linear\nx", "${a}",
])  # fmt: skip
def test_everything_else_is_foreign(target: str) -> None:
    assert list(foreign({"model": {"_target_": target}})) == [("model._target_", target)]
    assert list(foreign({"model": {"_target_": target}}, {target})) == []


def test_targets_and_interpolations_are_found_at_any_depth() -> None:
    options = {"callbacks": {"a": {"parts": [{"_target_": "os.system"}], "x": "${oc.env:HOME}"}}, "name": "ok"}
    assert list(foreign(options)) == [
        ("callbacks.a.parts.0._target_", "os.system"),
        ("callbacks.a.x", "${oc.env:HOME}"),
    ]


def test_every_target_of_the_configurations_is_trusted() -> None:
    found = [
        target
        for path in (ROOT / "configs").rglob("*.yaml")
        for target in re.findall(r"^\s*_target_: (\S+)$", path.read_text(), re.MULTILINE)
        if target != "???"
    ]
    assert len(found) > 20
    assert [target for target in found if not TRUSTED.fullmatch(target)] == []


def test_resume_runs_foreign_code_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = compose_config(["trainer.accelerator=cpu", "trainer.rounds=1"])[0].to_mapping()
    harm = tmp_path / "harm"
    mapping["callbacks"] = {"mine": {"_target_": "os.mkdir", "path": str(harm)}}
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(mapping))))
    assert main(["resume", str(run_dir)]) == 2
    assert capsys.readouterr().err == (
        f"fedpurin: {run_dir}: its callbacks.mine._target_=os.mkdir would run code from outside fedpurin; "
        f"if the run is yours, or you trust whom it comes from: fedpurin resume --trust {run_dir}\n"
    )
    assert not harm.exists()
    assert [path.name for path in run_dir.iterdir()] == ["config.yaml"]
    main(["resume", "--trust", str(run_dir)])  # the planted callback, a None, ends it afterwards
    assert harm.exists()
