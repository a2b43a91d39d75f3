"""`config.yaml` of a run folder: written whole, signed with the run's id and a checksum, read back.

    ...                                       the composed configuration
    # run 5f0c… sha256 9b1e…                  the last line

The id is drawn when a run begins and stands in every checkpoint's manifest too, so that files of two runs are told
apart. A file without the last line (an earlier version's, or one that was changed by hand on purpose) is taken as it
is. Does not own: which options may change (resume.py). Imports neither torch nor lightning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from fedpurin.config import Config, ConfigError
from fedpurin.run.files import read_file
from fedpurin.run.reader import check_references

FILE = "config.yaml"
SIGNATURE = re.compile(rb"# run ([0-9a-f]{16}) sha256 ([0-9a-f]{64})\n")


def new_id() -> str:
    return secrets.token_hex(8)


def write_config(run_dir: Path, config: Config, run_id: str) -> None:
    """Replace the file at once, with its last line."""
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create(json.loads(json.dumps(config.to_mapping())))).encode()
    aside = run_dir / f"{FILE}.partial"
    aside.write_bytes(text + f"# run {run_id} sha256 {_digest(run_id.encode(), text)}\n".encode())
    os.replace(aside, run_dir / FILE)


def read_id(run_dir: Path) -> str | None:
    """The run's id; None where there is no file, or no last line."""
    try:
        signature = _signature(read_file(run_dir / FILE))
    except OSError:
        return None
    return signature[1].decode() if signature else None


def read_config(run_dir: Path) -> Config:
    """The configuration that a run folder was made with.

    Raises:
        ConfigError: there is none, it is not whole, or not one of this version's.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = run_dir / FILE
    try:
        content = read_file(path)
    except OSError as error:
        if path.exists():
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        raise ConfigError(f"{run_dir} is not a run folder: it has no {FILE}") from None
    signature = _signature(content)
    if signature and _digest(signature[1], content[: signature.start()]) != signature[2].decode():
        raise ConfigError(
            f"{path} is not what the run wrote: it is damaged, or was changed by hand. Options of a run are changed by "
            f"`fedpurin resume {run_dir} option=value`; if the change is meant, delete the file's last line"
        )
    try:
        check_references(content)
        mapping: Any = OmegaConf.to_container(OmegaConf.create(content.decode()))
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException):
        mapping = None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} is damaged: it is not a configuration")
    if not signature and (not content.endswith(b"\n") or "choices" not in mapping):  # the last option, as written
        raise ConfigError(f"{path} is cut short")
    try:
        return Config.from_mapping(mapping)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _signature(content: bytes) -> re.Match[bytes] | None:
    return SIGNATURE.fullmatch(content, content.rfind(b"\n", 0, -1) + 1)


def _digest(run_id: bytes, text: bytes) -> str:
    return hashlib.sha256(run_id + text).hexdigest()
