"""The command as a user meets it: help, a short run, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fedpurin.__main__ import main
from fedpurin.cli.help import help_text
from fedpurin.run.compose import compose_config, config_groups

QUICK = ["partition.num_clients=3", "trainer.rounds=2", "trainer.local_epochs=1", "partition.train_per_client=40"]


def test_help_answers_within_two_seconds_and_lists_every_choice() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "fedpurin", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the processor's seconds: a busy machine changes the clock's
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    for group, choices in config_groups().items():
        assert group in done.stdout
        for choice in choices:
            assert choice in done.stdout
    assert done.stdout.count("\n  fedpurin ") >= 5


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "62")
    lines = help_text().splitlines()
    start, end = lines.index("Examples"), lines.index("Choices (group=choice)")  # what is to be copied stays whole
    assert [line for line in [*lines[3:start], *lines[end:]] if len(line) > 62] == []


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from fedpurin.cli.help import help_text; help_text(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_run_leaves_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, f"hydra.run.dir={tmp_path}/run"]) == 0
    run = tmp_path / "run"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [0, 1]
    assert {"accuracy/personalized", "accuracy/sparse", "accuracy/merged", "bytes/up", "bytes/down"} <= set(records[0])
    assert {"mask/density", "program/gap", "program/seconds"} <= set(records[0])
    rows = list(csv.DictReader((run / "clients.csv").open()))
    assert [(row["round"], row["client"]) for row in rows] == [(str(r), str(c)) for r in range(2) for c in range(3)]
    assert sum(int(row["bytes/up"]) for row in rows[:3]) == records[0]["bytes/up"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["rounds"] == 2
    for name in ("config.yaml", "environment.json", "fedpurin.log"):
        assert (run / name).stat().st_size > 0
    out = capsys.readouterr().out
    assert "mean over clients" in out
    assert str(run) in out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.round=3"], "trainer.round: there is no such option"),
        (["method=fedprune"], "method=fedprune: there is no such choice; method can be"),
        (["reprot", "x"], "reprot: there is no such command; did you mean report?\ncommands: report, partition,"),
        (["program.budget=0.05"], "program.budget belongs to program=budget: choose it as well"),
        (["method.mu=0.1"], "method.mu belongs to method=fedprox: choose it as well"),
        (["trainer.round=3"], "did you mean trainer.rounds?"),
        (["sede=3"], "sede: there is no such option (`fedpurin --cfg job` lists all); did you mean seed?"),
        (["metod=fedavg"], "did you mean method?"),
        (["method=fedprune"], "did you mean fedpurin?"),
        (["seed=1\r"], "'seed=1\\r': this is not an override"),
        (["model.lr=-1"], "model: configure_optimizers of ImageClassifier: Invalid learning rate: -1"),
        (["method fedavg"], "this is not an override"),
        (["fedavg"], "fedavg: there is no such command; did you mean method=fedavg?"),
        (["--hlep"], "--hlep: there is no such flag; did you mean --help?"),
        (["--seed", "3"], "--seed: there is no such flag; an option is written seed=3"),
        (["-v"], "-v: there is no such flag; fedpurin --help shows what there is"),
        (["seed=1,2"], "seed=1,2: several values are a sweep: fedpurin -m seed=1,2; a list is written seed=[1,2]"),
        (["method=local,fedavg"], "method=local,fedavg: several values are a sweep: fedpurin -m method=local,fedavg"),
        (["method=3"], "method=3: there is no such choice; method can be apfl"),
        (
            ["logger=[csv,wandbb]"],
            "logger=wandbb: there is no such choice; logger can be csv, tensorboard, wandb; did you",
        ),
        (["=3"], "=3: this is not an override"),
        (["-m", "seed=1,2", "trainer.round=3"], "did you mean trainer.rounds?"),
        (["-m", "method=local,fedagv"], "method=fedagv: there is no such choice; method can be"),
        (["-m", "method=local,fedavg", "fedper"], "fedper: this is not an override; write option=value"),
        (["-m", "partition.alpha=0.1,,0.5"], "write option=value (a bracket, a quote, a space or a comma is amiss)"),
        (["program.tau=1.5"], "program.tau=1.5 is not possible"),
        (["partition.alpha=0"], "partition.alpha=0 is not possible"),
        (["partition.num_clients=5000"], "partition.num_clients=5000"),
        (["partition=pathological", "partition.classes_per_client=11"], "partition.classes_per_client=11"),
        (["data=fashion_mnist", "data.root=/nowhere", "data.download=false"], "data.root=/nowhere"),
        (["model=vit_b_16"], "set data.image_size=16"),
        (
            ["model=custom", "model._target_=tests.modules.Diverging", "data.image_size=16"],
            "Diverging does not fit samples of shape 1×16×16",
        ),
        (["trainer.accelerator=gpu"], "trainer.devices=1 with trainer.accelerator=gpu is not possible"),
        (["trainer.devices=64"], "trainer.devices=64"),
        (["method.beta=0"], "method: beta=0 is not possible"),
        (["~callbacks.mask_selection"], "keep callbacks.mask_selection"),
        (["hydra.run.dir=/dev/null/run"], "hydra.run.dir=/dev/null/run cannot be written"),
        (["model=custom"], "model._target_"),
        (["model=custom", "model._target_=no.such.Model"], "model._target_=no.such.Model cannot be found"),
        (["model=custom", "model._target_=lightning.LightningModule"], "LightningModule has no training_step"),
        (["model=custom", "model._target_=tests.modules.NoOptimizer"], "NoOptimizer has no configure_optimizers"),
        (["method.close_after_horizon=true", "partition.num_clients=2"], "method.close_after_horizon=true"),
        (["method.close_after_horizon=true", "trainer.clients_per_round=2"], "with 2 clients a round is not possible"),
    ],
)
def test_a_mistake_ends_with_code_2_and_a_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any(argument.startswith("hydra.run.dir") for argument in arguments):
        arguments = [*arguments, f"hydra.run.dir={tmp_path}"]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.startswith("fedpurin: ")
    assert captured.err.count("\n") <= 2
    assert "Traceback" not in captured.err + captured.out


def test_a_sweep_with_a_mistake_in_its_last_run_starts_none_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "method=local,fedavg", "program=layerwise,bugdet", *QUICK]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        "fedpurin: program=bugdet: there is no such choice; program can be budget, custom, global, layerwise; "
        "did you mean budget?"
    )
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_command_is_found_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["help", "list"], ["list", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith("usage: fedpurin list")


def test_a_run_with_own_configurations_is_checked_before_hydra_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it's" / "method").mkdir(parents=True)
    (tmp_path / "it's" / "method" / "mine.yaml").write_text("_target_: fedpurin.methods.FedAvg\n")
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("[seed=1]\n")
    (run / "metrics.jsonl").write_text('{"round": 0}\n')
    for flag in (["--config-dir", f"{tmp_path}/it's"], [f"--config-dir={tmp_path}/it's"], ["-cd", f"{tmp_path}/it's"]):
        assert main([*flag, "method=mine", f"hydra.run.dir={run}"]) == 2
        assert f"hydra.run.dir={run} holds a run already" in capsys.readouterr().err
    assert (run / ".hydra" / "overrides.yaml").read_text() == "[seed=1]\n"
    assert main([*flag, "method=mine", "trainer.rounds=0", f"hydra.run.dir={tmp_path}/new"]) == 2
    assert "trainer.rounds=0 is not possible" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "mine_too.yaml").write_text("_target_: fedpurin.methods.FedAvg\n")
    assert main(["--config-dir", f"{tmp_path}/own", "method=mine_to", f"hydra.run.dir={tmp_path}/new"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean mine_too?\n")
    assert main(["--config-dir", f"{tmp_path}/none", f"hydra.run.dir={tmp_path}/new"]) == 2
    assert capsys.readouterr().err.endswith(f"--config-dir {tmp_path}/none: there is no such folder\n")


def test_every_choice_composes() -> None:
    from fedpurin.run.compose import compose_config

    for group, choices in config_groups().items():
        for choice in choices:
            needed = [f"{group}._target_=torch.nn.Flatten"] if choice == "custom" else []
            needed += ["model.name=resnet18"] if choice == "timm" else []
            config, _ = compose_config([f"{group}={choice}", *needed])
            assert config.trainer.rounds > 0


def test_a_run_from_which_every_client_diverges_ends_with_a_line_and_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*QUICK, "method=fedavg", "model.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}"])
    assert end.value.code == 1
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("fedpurin: every client diverged")
    ]
    assert len(lines) == 1
    assert "from round 1 to the last, round 2" in lines[0]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(("changes", "meant"), [("true", "{start}/images"), ("false", "images")])
def test_a_relative_path_is_seen_from_the_start_where_hydra_changes_the_folder(
    changes: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["data=image_folder", "data.root=images", "clients.store=disk", "clients.folder=images"]
    config, _ = compose_config([*options, f"hydra.job.chdir={changes}"])
    assert (config.data.root, config.clients.folder) == (meant.format(start=tmp_path),) * 2
