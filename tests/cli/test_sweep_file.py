"""W&B sweep files as lines of overrides: nothing is lost on the way to Hydra, or it is refused."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from fedpurin.__main__ import main
from fedpurin.cli.sweep_file import expand, hydra_value, quote, read_sweep
from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_config

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


def test_a_grid_becomes_every_combination() -> None:
    sweep = {
        "parameters": {"program.tau": {"values": [0.1, 0.5]}, "method": {"value": "fedavg"}, "seed": {"values": [1]}}
    }
    assert expand(sweep, None, None) == ["program.tau=0.1 method=fedavg seed=1", "program.tau=0.5 method=fedavg seed=1"]
    with pytest.raises(ConfigError, match=r"--seed 5: a grid draws nothing; give --count as well"):
        expand(sweep, None, 5)
    assert len(expand(sweep, 3, 5)) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), ("true", "'true'"), (1e-8, "1e-08"), (0.1234567890123456, "0.1234567890123456"),
        ("a b", "'a b'"), ("", "''"), ("it's", r"'it\'s'"), ("glob(fedp*)", "'glob(fedp*)'"), ("1e-3", "'1e-3'"),
        (["x,y", "z", None], "['x,y',z,null]"), ({"a": [1, 2.5]}, "{a:[1,2.5]}"), ("fedavg", "fedavg"),
        ('say "a", or `b`', "'say \"a\", or `b`'"), ("a\\b", r"'a\b'"), ("é", "'é'"),
    ],
)  # fmt: skip
def test_a_value_reaches_hydra_as_it_is(value: Any, text: str) -> None:
    assert hydra_value(value) == text
    line = f"{quote('key=' + text)} {quote('last=1')}"
    split = subprocess.run(
        ["xargs", "-n", "1", "printf", "%s\\n"], input=line, capture_output=True, text=True, check=True
    )
    assert split.stdout.splitlines() == shlex.split(line) == [f"key={text}", "last=1"]
    assert plain(OverridesParser.create().parse_override(f"key={text}").value()) == value


def plain(element: Any) -> Any:
    """Hydra's parsed value without its marks of quoting."""
    if isinstance(element, list):
        return [plain(item) for item in element]
    if isinstance(element, dict):
        return {plain(key): plain(item) for key, item in element.items()}
    return getattr(element, "text", element)


def test_the_file_is_read_as_hydra_reads_yaml(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfmethod: grid\r\nparameters:\r\n  model.lr: {values: [1e-3, '1e-3']}\r\n"
        b"  model: {parameters: {backbone: {parameters: {depth: {value: 2}}}}}\r\n"
    )
    assert expand(read_sweep(path), None, None) == [
        "model.lr=0.001 model.backbone.depth=2",
        "\"model.lr='1e-3'\" model.backbone.depth=2",
    ]
    path.write_text("parameters:\n  a: {value: 1}\n  a: {value: 2}\n")
    assert main(["sweep", "expand", str(path)]) == 2


def test_distributions_are_drawn_the_same_every_time() -> None:
    sweep = {"parameters": {"a": {"min": 0.0, "max": 1.0}, "b": {"min": 1, "max": 9}, "c": {"values": ["x"]}}}
    with pytest.raises(ConfigError, match="a, b: not a list of values"):
        expand(sweep, None, None)
    assert expand(sweep, 3, 1) == expand(sweep, 3, 1)
    assert expand(sweep, 3, 1) != expand(sweep, 3, 2)


def test_draws_keep_their_digits_steps_and_probabilities() -> None:
    tiny = {"parameters": {"a": {"distribution": "log_uniform_values", "min": 1e-9, "max": 1e-8}}}
    values = [float(line.partition("=")[2]) for line in expand(tiny, 50, 0)]
    assert min(values) >= 1e-9
    assert max(values) <= 1e-8
    assert len(set(values)) == 50
    stepped = {"parameters": {"a": {"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.1}}}
    assert set(expand(stepped, 200, 0)) == {f"a=0.{tenth}" for tenth in range(1, 10)}
    weighted = {"method": "random", "parameters": {"m": {"values": ["a", "b"], "probabilities": [0.95, 0.05]}}}
    assert 2 <= expand(weighted, 400, 0).count("m=b") <= 40
    assert expand({**weighted, "run_cap": 7}, None, None) == expand(weighted, 7, 0)


def test_overrides_in_the_command_are_kept() -> None:
    command = ["${env}", "-m", "fedpurin", "trainer.rounds=3", "logger=[csv,wandb]", "resume=auto", "hydra.run.dir=x"]
    assert expand({"command": command, "parameters": {"seed": {"value": 1}}}, None, None) == ["trainer.rounds=3 seed=1"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"a": {"distribution": "beta", "min": 0, "max": 1}}, "a: distribution beta is not known here"),
        ({"a": {"values": []}}, "a: values=[] is not a list of at least one value"),
        ({"a": {"values": "xy"}}, "a: values='xy' is not a list"),
        ({"a": {"values": [1, 2], "probabilities": [1.0]}}, "a: probabilities=[1.0] are not one for each value"),
        ({"a": {"valeus": [1]}}, "a: valeus is not known here"),
        ({"a": {"value": "two\nlines"}}, "cannot hold a line break"),
        ({"a b": {"value": 1}}, "'a b' is not the name of an option"),
        ({"a": {"min": 3, "max": 1}}, "a: min=3, max=1 is not possible for int_uniform"),
        ({"a": 3}, "a: needs values, value, or a distribution"),
        ({"a": {"parameters": {"b": {"value": 1}}, "value": 2}}, "a: value beside parameters"),
        ({"a": {"values": [1, 2], "min": 3}}, "a: min beside values has no effect"),
        ({"a": {"values": [1, 2], "value": 3}}, "a: value beside values has no effect"),
        ({"a": {"min": 0.1, "max": 0.9, "q": 0.1}}, "a: q beside min and max has no effect"),
        ({"a": {"min": False, "max": True}}, "a: needs values, value, or min and max"),
        ({"a": {"distribution": "log_uniform", "min": 1000, "max": 2000}}, "they are logarithms"),
        ({"a": {"value": "nul\0"}}, "cannot hold a line break or a null"),
        ({"a": {"value": "${seed}"}}, "means another option's value"),
    ],
)
def test_what_lines_cannot_say_is_refused(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand({"parameters": sweep}, 1, 0)
    assert message in str(caught.value)


def test_what_would_change_the_runs_is_refused() -> None:
    parameters = {"a": {"values": [1, 2]}}
    with pytest.raises(ConfigError, match="early_terminate: lines of overrides cannot do this"):
        expand({"parameters": parameters, "early_terminate": {"type": "hyperband"}}, None, None)
    with pytest.raises(ConfigError, match="method: bayes draws its runs; say how many"):
        expand({"parameters": parameters, "method": "bayes"}, None, None)


def test_a_command_in_one_string_is_split_as_a_shell_does() -> None:
    sweep = {"command": "fedpurin method=local name='a b' ${args_no_hyphens}", "parameters": {"seed": {"value": 1}}}
    assert expand(sweep, None, None) == ['method=local "name=a b" seed=1'.replace('"', "'")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("WANDB_MODE=offline", "command: WANDB_MODE=offline is a variable: set it where the array runs"),
        ("--lr=0.1", "command: --lr=0.1 is no override"),
        (
            "fedpurin method=local",
            "command: fedpurin method=local is no override; lines hold overrides only, one to an",
        ),
    ],
)
def test_what_a_command_does_besides_overrides_is_refused(entry: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand({"command": ["env", entry, "${args_no_hyphens}"], "parameters": {"seed": {"value": 1}}}, None, None)
    assert message in str(caught.value)


@pytest.mark.parametrize("cap", [0, "many", 1.5])
def test_a_cap_that_is_no_number_of_runs_is_refused(cap: Any) -> None:
    with pytest.raises(ConfigError, match=r"run_cap=.* is not possible"):
        expand({"run_cap": cap, "parameters": {"seed": {"values": [1, 2]}}}, None, None)


def test_lines_that_repeat_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("parameters:\n  seed: {values: [1, 1, 2]}\n")
    assert main(["sweep", "expand", str(path)]) == 0
    told = capsys.readouterr()
    assert told.err == "fedpurin: 1 of 3 lines repeat others\n"
    assert told.out == "seed=1\nseed=1\nseed=2\n"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_the_sweeps_that_ship_composes(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    lines = expand(sweep, None if sweep["method"] == "grid" else 4, None)
    for line in (lines[0], lines[-1]):
        config, _ = compose_config(["logger=[csv,wandb]", *line.split()])
        assert config.logger.keys() == {"wandb"}
    assert "${args_no_hyphens}" in sweep["command"]
