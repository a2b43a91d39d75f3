"""W&B for tests: nothing of this machine's login or settings, and a server that stands in for W&B's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fedpurin.tracking import wandb_service
from tests.callbacks.wandb_server import WandbServer


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No W&B variable, settings file, login or proxy; and none of W&B's own left for the next test."""
    _forget_wandb()
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.lower() in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home))
    yield
    _forget_wandb()


@pytest.fixture
def server(no_login: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server, and a login for it."""
    server = WandbServer()
    server.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield server
    server.stop()
    assert server.surprises == []


def _forget_wandb() -> None:
    wandb_service.forget_process()
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            del os.environ[name]
