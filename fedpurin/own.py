"""Functions of the user's that take the place of ours: found by name, called with the arguments that they name.

`data._target_`, `partition._target_`, `program._target_` and `scores._target_` each name a function. It is offered
values by name (its labels, its scores, a generator), of which it takes those that its signature has; options that the
section does not know (`+data.noise=0.3`) are its further arguments.

Owns: finding the function, what it is called with, and the line that says what does not fit. Does not own: what each
function returns and how that is checked (data/own.py, selection/own.py), models, methods and callbacks (run/build.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fedpurin.config import ConfigError, name_of


def call_own(section: str, own: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """Call the section's function with its own options and with what it takes of `offered`.

    Raises:
        ConfigError: there is no such function, or it lacks an argument or does not know an option; or it raised one.
    """
    function, name = find_own(section, own["_target_"]), name_of(own["_target_"])
    options = {key: value for key, value in own.items() if key != "_target_"}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{section}._target_={name} has no signature: {error}") from None
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = [parameter.name for parameter in parameters if parameter.kind not in _VARIADIC]
    if not takes_all and (unknown := sorted(options.keys() - set(names))):
        raise ConfigError(f"{section}.{unknown[0]}: {name} has no such argument; it has {', '.join(names) or 'none'}")
    given = {key: value for key, value in offered.items() if takes_all or key in names} | options
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC and p.name not in given]
    if needed:
        raise ConfigError(
            f"{section}._target_={name} needs {needed[0]}: it is offered {', '.join(offered)}; give any other argument as "
            f"+{section}.{needed[0]}=..."
        )
    return function(**given)


def find_own(section: str, target: Any) -> Any:
    """The function itself, imported if `target` is its dotted name.

    Raises:
        ConfigError: nothing that can be called has this name.
    """
    found = target
    if isinstance(target, str):
        try:
            found = _import(target)
        except Exception as error:  # to import is to run somebody's module
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{section}._target_={target} cannot be found ({text})") from error
    if not callable(found):
        raise ConfigError(f"{section}._target_={name_of(target)} cannot be called; give a function")
    return found


def _import(name: str) -> Any:
    """`package.module.function`, or an attribute of a class in a module."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or len(parts) < 2:
        raise ImportError("write package.module.function")
    found: Any = import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            if not hasattr(found, "__path__"):  # no package: nothing below it is a module
                raise ImportError(f"{'.'.join(parts[: index - 1])} has no {part}")
            import_module(".".join(parts[:index]))
        found = getattr(found, part)
    return found


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
