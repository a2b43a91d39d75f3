"""fedpurin: a simulator for communication-efficient personalised federated learning.

    import fedpurin
    result = fedpurin.simulate(["trainer.rounds=20"], module=MyModule(), train=train_set, test=test_set)
    print(result.summary["accuracy/personalized"], result.run_dir)

Names load when first used: `fedpurin --help` must not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpurin.api import RunResult, simulate
    from fedpurin.config import Config, ConfigError
    from fedpurin.federation import Federation

__version__ = "0.1.0"
__all__ = ["Config", "ConfigError", "Federation", "RunResult", "simulate"]

_HOME = {
    "Config": "config",
    "ConfigError": "config",
    "Federation": "federation",
    "RunResult": "api",
    "simulate": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fedpurin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"fedpurin.{_HOME[name]}"), name)
