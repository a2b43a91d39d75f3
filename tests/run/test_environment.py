"""A run folder can be handed on: it says what was run, and no password."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedpurin.run.environment import describe_environment, without_secrets


def test_values_of_secret_options_and_variables_are_hidden() -> None:
    environment = {"WANDB_API_KEY": "0123456789abcdef", "HF_TOKEN": "hf_abcdefgh", "SHELL": "/bin/sh", "MY_TOKEN": "no"}
    command = [
        "fedpurin", "logger.wandb.api_key=abc", "+db.password=x=y", "--token", "t0p", "--seed", "3", "tags=[hf_abcdefgh]",
        "data.root=https://anna:pw@host/data", "name=notes-0123456789abcdef-0", "callbacks.monitor=accuracy", "no=no",
    ]  # fmt: skip
    assert without_secrets(command, environment) == [
        "fedpurin", "logger.wandb.api_key=***", "+db.password=***", "--token", "***", "--seed", "3", "tags=[***]",
        "data.root=https://***@host/data", "name=notes-***-0", "callbacks.monitor=accuracy", "no=no",
    ]  # fmt: skip


def test_the_environment_record_holds_no_secret() -> None:
    code = "import json; from fedpurin.run.environment import describe_environment as d; print(json.dumps(d()))"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "AWS_SECRET_ACCESS_KEY": "verysecretvalue"}
    done = subprocess.run(
        [sys.executable, "-c", code, "verysecretvalue", "s3.token=abc"],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert "verysecretvalue" not in done.stdout
    assert json.loads(done.stdout)["command"] == ["-c", "***", "s3.token=***"]
    assert describe_environment()["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_KEY", "DB_PASS", "MYPASS", "PGPASSWORD"])
def test_a_value_of_a_secret_variable_is_hidden_wherever_it_stands(name: str) -> None:
    assert without_secrets(["run", "name=a-s3cretvalue-b"], {name: "s3cretvalue"}) == ["run", "name=a-***-b"]


@pytest.mark.parametrize("name", ["PWD", "KEYBOARD_LAYOUT", "TERM"])
def test_other_variables_hide_nothing(name: str) -> None:
    assert without_secrets(["data.root=/homes/me/data"], {name: "/homes/me"}) == ["data.root=/homes/me/data"]
