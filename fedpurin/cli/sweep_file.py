"""A W&B sweep file as lines of overrides, one a run, for `slurm/array.sbatch` or a shell.

Owns: reading the file, its combinations and draws, and the two layers of quoting: a value for Hydra's grammar, an
override for the line. Whatever the file asks for and a line cannot say is refused. Does not own: running anything.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurin.config import ConfigError

DESCRIBING = frozenset({"name", "description", "program", "project", "entity", "metric", "command", "method"})
"""Keys of a sweep file that do not change which runs there are; parameters and run_cap are the others."""
AGENTS_OWN = ("resume=", "hydra.", "logger=")
"""Overrides in `command` that belong to W&B's agent; the array sets its own."""
PARAMETER_KEYS = frozenset({"value", "values", "probabilities", "distribution", "min", "max", "mu", "sigma", "q"})
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./:@+-]*")  # read back by Hydra as the same text
_NOT_TEXT = frozenset({"null", "true", "false", "nan", "inf"})
_FIXED = re.compile(r"[+~]{0,2}[A-Za-z_][A-Za-z0-9_./@-]*=[\s\S]*|--config-dir=[\s\S]+")
_NAME = re.compile(r"[+~]{0,2}[A-Za-z_][A-Za-z0-9_./@-]*")


def read_sweep(path: Path) -> dict[str, Any]:
    """The sweep file, with Hydra's reading of YAML: 1e-3 is a number, a key that is there twice is a mistake.

    Raises:
        ConfigError: it cannot be read, or is no sweep file.
    """
    from omegaconf._utils import get_yaml_loader
    from yaml import YAMLError, load

    try:
        value = load(path.read_text(encoding="utf-8-sig"), Loader=get_yaml_loader())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a W&B sweep file")
    return value


def expand(sweep: Mapping[str, Any], count: int | None, seed: int | None) -> list[str]:
    """The sweep's runs as lines of overrides: every combination, or `count` draws.

    Raises:
        ConfigError: something in the file that lines cannot say, or draws without a count.
    """
    if unknown := sorted(map(str, sweep.keys() - DESCRIBING - {"parameters", "run_cap"})):
        raise ConfigError(f"{unknown[0]}: lines of overrides cannot do this; remove it from the sweep file")
    parameters = _flatten(sweep.get("parameters") or {})
    if not parameters:
        raise ConfigError("the sweep file has no parameters")
    for name, options in parameters.items():
        _check(name, options)
    fixed = fixed_overrides(sweep)
    cap, method = sweep.get("run_cap"), sweep.get("method", "grid")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ConfigError(f"run_cap={cap!r} is not possible: it should be a whole number, at least 1")
    if count is None and method != "grid":
        count = cap
    if count is None:
        drawn = [name for name, options in parameters.items() if _values(options) is None or "probabilities" in options]
        if drawn or method != "grid":
            which = f"{', '.join(drawn)}: not a list of values" if drawn else f"method: {method} draws its runs"
            raise ConfigError(f"{which}; say how many runs to draw with --count")
        if seed is not None:
            raise ConfigError(f"--seed {seed}: a grid draws nothing; give --count as well, or leave --seed out")
        choices = [[_override(name, value) for value in _values(options) or ()] for name, options in parameters.items()]
        return [_line([*fixed, *line]) for line in itertools.islice(itertools.product(*choices), cap)]
    if count < 1:
        raise ConfigError(f"--count {count} is not possible: it should be at least 1")
    dice = random.Random(seed or 0)
    return [
        _line([*fixed, *(_override(name, _draw(name, options, dice)) for name, options in parameters.items())])
        for _ in range(count)
    ]


def fixed_overrides(sweep: Mapping[str, Any]) -> list[str]:
    """The overrides in the file's `command` that every run gets, those of W&B's agent left out.

    Raises:
        ConfigError: something else in it that would have an effect: a variable, a flag, several words in one.
    """
    command = sweep.get("command") or ()
    if not isinstance(command, str | list | tuple):
        raise ConfigError(f"command={command!r}: needs a list of words")
    texts = shlex.split(command) if isinstance(command, str) else [str(item) for item in command]
    texts = [text for text in texts if "=" in text and not text.startswith(AGENTS_OWN)]
    for text in texts:
        if not _FIXED.fullmatch(text) or text.partition("=")[0].isupper():
            why = (
                "is a variable: set it where the array runs (slurm/site.sh)" if text[0].isupper() else "is no override"
            )
            raise ConfigError(f"command: {text} {why}; lines hold overrides only, one to an entry")
    return texts


def hydra_value(value: Any) -> str:
    """A value as Hydra's grammar reads it back: null, numbers with all digits, text quoted where it has to be.

    Raises:
        ConfigError: a kind of value that an override cannot hold.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, dict) and all(isinstance(key, str) and _BARE.fullmatch(key) for key in value):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        raise ConfigError(f"{value!r}: an override cannot hold a {type(value).__name__}")
    if set(value) & set("\n\r\0"):
        raise ConfigError(f"{value!r}: an override in a line cannot hold a line break or a null")
    if "${" in value:
        raise ConfigError(f"{value!r}: an override with ${{...}} means another option's value; write it without")
    if _BARE.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    from hydra.core.override_parser.types import Quote, QuotedString

    quoted: str = QuotedString(value, Quote.single).with_quotes()
    return quoted


def quote(override: str) -> str:
    """An override for a line that a shell, `xargs` and `shlex` split alike."""
    quoted = shlex.quote(override)
    if "'" in override and not set(override) & set('"$`!\\'):
        return f'"{override}"'  # the same, easier to read
    return quoted


def _line(overrides: Sequence[str]) -> str:
    return " ".join(map(quote, overrides))


def _override(name: str, value: Any) -> str:
    return f"{name}={hydra_value(value)}"


def _flatten(parameters: Any, prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Nested parameters (`parameters:` inside a parameter) under dotted names."""
    if not isinstance(parameters, dict):
        raise ConfigError(f"{prefix or 'parameters'}: needs a mapping of names to values or distributions")
    flat: dict[str, Mapping[str, Any]] = {}
    for key, options in parameters.items():
        name = f"{prefix}{key}"
        if not isinstance(options, dict):
            raise ConfigError(f"{name}: needs values, value, or a distribution; got {options!r}")
        if "parameters" in options:
            if more := sorted(options.keys() - {"parameters"}):
                raise ConfigError(f"{name}: {more[0]} beside parameters is not possible")
            flat |= _flatten(options["parameters"], f"{name}.")
        else:
            flat[name] = options
    return flat


def _check(name: str, options: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the name of an option")
    if unknown := sorted(map(str, options.keys() - PARAMETER_KEYS)):
        raise ConfigError(f"{name}: {unknown[0]} is not known here")
    if excess := sorted(options.keys() - _read_by(options)):
        rest = " and ".join(sorted(options.keys() & {"values", "value", "distribution"} - {excess[0]})) or "min and max"
        raise ConfigError(f"{name}: {excess[0]} beside {rest} has no effect; leave one out")
    values = options.get("values")
    if "values" in options and (not isinstance(values, list) or not values):
        raise ConfigError(f"{name}: values={values!r} is not a list of at least one value")
    if "probabilities" in options:
        weights = options["probabilities"]
        fits = isinstance(weights, list) and isinstance(values, list) and len(weights) == len(values)
        if not fits or not all(isinstance(w, int | float) and w >= 0 for w in weights) or abs(sum(weights) - 1) > 1e-6:
            raise ConfigError(f"{name}: probabilities={weights!r} are not one for each value that add up to 1")


def _read_by(options: Mapping[str, Any]) -> set[str]:
    """The keys that count in a parameter, by its kind."""
    kind = str(options.get("distribution", ""))
    if "values" in options:
        return {"values", "probabilities"} | ({"distribution"} if kind.startswith("categorical") else set())
    if "value" in options:
        return {"value"} | ({"distribution"} if kind == "constant" else set())
    ends = {"mu", "sigma"} if "normal" in kind else {"min", "max"}
    return {"distribution", *ends} | ({"q"} if kind.startswith("q_") else set())


def _values(options: Mapping[str, Any]) -> list[Any] | None:
    if "values" in options:
        return list(options["values"])
    return [options["value"]] if "value" in options else None


def _draw(name: str, options: Mapping[str, Any], dice: random.Random) -> Any:
    if (values := _values(options)) is not None:
        weights = options.get("probabilities")
        return dice.choices(values, weights)[0] if weights else dice.choice(values)
    low, high = options.get("min"), options.get("max")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = str(options.get("distribution", "int_uniform" if whole else "uniform"))
    base = kind.removeprefix("q_")
    draw = _DRAWS.get(base)
    if draw is None or kind == "q_int_uniform":
        known = ", ".join(_DRAWS)
        raise ConfigError(f"{name}: distribution {kind} is not known here; use one of {known} (q_ for steps)")
    first, second = (options.get("mu", 0.0), options.get("sigma", 1.0)) if "normal" in base else (low, high)
    if isinstance(first, bool) or not isinstance(first, int | float) or not isinstance(second, int | float):
        raise ConfigError(f"{name}: needs values, value, or min and max")
    ordered = "normal" in base or first <= second
    if not ordered or (base == "log_uniform_values" and first <= 0):
        raise ConfigError(f"{name}: min={first}, max={second} is not possible for {kind}")
    try:
        value = draw(dice, first, second)
    except OverflowError:
        raise ConfigError(
            f"{name}: {kind} of {first} and {second} is too large: they are logarithms (log_uniform_values takes values)"
        ) from None
    if kind == base:
        return value
    step = options.get("q", 1)
    if not isinstance(step, int | float) or step <= 0:
        raise ConfigError(f"{name}: q={step!r} is not possible: it should be greater than 0")
    stepped = round(value / step) * step
    return stepped if isinstance(step, int) else float(f"{stepped:.12g}")  # 3 * 0.1 is 0.3


_DRAWS: Mapping[str, Callable[[random.Random, Any, Any], Any]] = {
    "uniform": lambda dice, low, high: dice.uniform(low, high),
    "int_uniform": lambda dice, low, high: dice.randint(low, high),
    "log_uniform_values": lambda dice, low, high: math.exp(dice.uniform(math.log(low), math.log(high))),
    "log_uniform": lambda dice, low, high: math.exp(dice.uniform(low, high)),
    "normal": lambda dice, mu, sigma: dice.gauss(mu, sigma),
    "log_normal": lambda dice, mu, sigma: math.exp(dice.gauss(mu, sigma)),
}
