"""Options in few words, as labels and titles have them: α=0.1, 20 clients.

Owns: their symbols and how a value is written. Does not own: which options tell groups apart (comparison.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SYMBOLS = {"program.tau": "τ", "method.beta": "β", "partition.alpha": "α", "program.budget": "budget", "model.lr": "lr"}


def describe(options: Mapping[str, Any]) -> str:
    """Options in few words: α=0.1, 20 clients."""
    told = {"program.name", "program.budget"} if options.get("program.name") == "budget" else set()
    left_out = "program.name" if told <= options.keys() and told else ""  # budget=0.1 says it already
    return ", ".join(describe_option(option, value) for option, value in options.items() if option != left_out)


def describe_option(option: str, value: Any) -> str:
    if option == "partition.num_clients":
        return f"{value} clients"
    if option.endswith((".name", "_target_")) or option == "method":
        return str(value).rpartition(".")[2]
    return f"{short_name(option)}={format_value(value)}"


def short_name(option: str) -> str:
    return SYMBOLS.get(option, option.rpartition(".")[2].replace("_", " "))


def format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value).lower()
