"""What checks plain annotations in tests/conftest.py: beartype, to which an integer is a float as it is to mypy."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
