"""What an option changes, declared beside it: metadata on the fields of fedpurin/config.py, and the lists made from them.

An option without a mark changes the result of a run: a run that is resumed must keep it, and runs that differ in it are
compared as different. Owns: the marks, and reading them off a configuration class. Does not own: the options (config.py), nor
what `resume` (run/resume.py), the report (report/relevance.py) and the warnings (run/effects.py) make of the lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Changes(Enum):
    """What another value of an option changes, if it is not the result."""

    NOTHING = "where and how a run is carried out and told: not a bit of it"
    LENGTH = "how many rounds there are: those that both runs have are the same"
    BITS = "the last bits, by the order in which numbers are added"
    RECORD = "what is measured and written, not what is trained"
    DRAW = "every random draw: runs that differ in it are repetitions of one another"


@dataclass(frozen=True)
class ReadIf:
    """The option is read only where another one (dotted) has one of these values."""

    option: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A mark for one entry of a mapping whose entries the configuration does not know."""

    name: str
    changes: Changes


def marked(config: type, *kinds: Changes) -> tuple[str, ...]:
    """The dotted options that bear one of these marks; a marked section stands for all of its options."""
    return tuple(option for option, mark in _marks(config) if isinstance(mark, Changes) and mark in kinds)


def read_only_if(config: type) -> dict[str, ReadIf]:
    """The options that are read only under another one's values."""
    return {option: mark for option, mark in _marks(config) if isinstance(mark, ReadIf)}


def covers(options: tuple[str, ...], option: str) -> bool:
    """Whether an option, or the section that it is in, is one of these."""
    return any(option == listed or option.startswith(f"{listed}.") for listed in options)


def _marks(config: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        option, hint = f"{prefix}{field.name}", hints[field.name]
        for mark in getattr(hint, "__metadata__", ()):
            yield (f"{option}.{mark.name}", mark.changes) if isinstance(mark, Part) else (option, mark)
        for part in _classes(hint):
            yield from _marks(part, f"{option}.")


def _classes(hint: Any) -> Iterator[type]:
    """Configuration classes inside a type: itself, under metadata, in a union with None."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    elif get_origin(hint) is Annotated or not isinstance(hint, type):
        for part in get_args(hint):
            yield from _classes(part)
