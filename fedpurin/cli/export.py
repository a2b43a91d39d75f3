"""`fedpurin export RUN_DIR --client 3`: one client's personalised model, for use outside the federation.

Owns: the command and its two files: safetensors, and a checkpoint that Lightning's `load_from_checkpoint` and plain
`torch.load` read. Does not own: what the model is in a checkpoint (run/export.py). Imports torch only when it is used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fedpurin.cli.text import Help
from fedpurin.config import ConfigError

MAX_COLUMNS = 6
"""Columns and categories of a table that are printed; the file holds all of them."""


def main(arguments: Sequence[str]) -> int:
    """`fedpurin export RUN_DIR --client ID`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin export",
        description="Write one client's personalised model from a run's newest sound checkpoint, twice:\n\n"
        "  client-ID.safetensors   weights and buffers\n"
        "  client-ID.ckpt          the same as a Lightning checkpoint\n\n"
        "Load them with module.load_state_dict(safetensors.torch.load_file(path)) and with\n"
        "MyModule.load_from_checkpoint(path). torch.load(path)['fedpurin'] holds the normalisation or coding of the\n"
        "inputs, the client's test samples (test_indices), and what was measured on them.",
        epilog="Examples:\n"
        "  fedpurin export outputs/2026-05-04/10-15-00 --client 3\n"
        "  fedpurin export runs/a --client 3 --rounds 100 --output models/   an older checkpoint",
        formatter_class=Help,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's folder (hydra.run.dir)")
    parser.add_argument("--client", metavar="ID", type=int, required=True, help="the client, counted from 0")
    parser.add_argument("--rounds", metavar="N", type=int, help="the checkpoint after N rounds; default: the newest")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for the files; default: RUN_DIR/export")
    given = parser.parse_args(list(arguments))

    import torch
    from safetensors.torch import save_file

    from fedpurin.run.export import personal_model, personal_use

    checkpoint = find(given.run_dir, given.rounds)
    model, use = personal_model(checkpoint, given.client), personal_use(checkpoint, given.client)
    folder: Path = given.output or given.run_dir / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"client-{given.client}"
        about = {"run_dir": str(given.run_dir), "client": str(given.client), "rounds": str(checkpoint.rounds_done)}
        save_file(model, f"{stem}.safetensors", metadata=about)  # readable by its owner alone, whatever the umask says
        Path(f"{stem}.safetensors").chmod(0o666 & ~_umask())
        lightning = {
            "state_dict": model,
            "pytorch-lightning_version": metadata.version("lightning"),
            "epoch": 0,
            "global_step": 0,
            "hyper_parameters": use.get("hyper_parameters", {}),
            "fedpurin": about | use,
        }
        if use.get("hparams_name"):
            lightning["hparams_name"] = use["hparams_name"]
        torch.save(lightning, f"{stem}.ckpt")
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from None
    print(f"client {given.client} after {checkpoint.rounds_done} rounds: {stem}.safetensors, {stem}.ckpt")
    for line in how_to_use(use, Path(f"{stem}.ckpt")):
        print(f"  {line}")
    return 0


def how_to_use(use: Mapping[str, Any], path: Path) -> list[str]:
    """What the user has to do for the model to give what was measured; nothing of a checkpoint that does not tell."""
    if "class" not in use:
        return []
    package, _, name = use["class"].rpartition(".")
    lacking = "".join(f", {argument}=..." for argument in use["not_stored"])
    strict = ", strict=False" if use["added_keys"] else ""
    lines = [f"class:         from {package} import {name}"] if package and package != "__main__" else []
    lines += [f"load:          {name}.load_from_checkpoint({str(path)!r}{lacking}{strict})"]
    for argument, size in use.get("found", {}).items():
        lines.append(
            f"               ({argument}={size} was found by the weights' shapes: {name} recorded no arguments)"
        )
    if use["added_keys"]:
        lines.append(f"               (the method added {', '.join(use['added_keys'])}, which {name} does not have:")
        lines.append("               loaded without them, it measures otherwise than in the run)")
    if coding := use.get("coding"):
        more = f"; {len(coding) - MAX_COLUMNS} more (coding)" if len(coding) > MAX_COLUMNS else ""
        lines.append(f"inputs:        {'; '.join(map(_coded, coding[:MAX_COLUMNS]))}{more}")
    elif (scale := use["normalisation"]) is None:
        lines.append("inputs:        as the data set gives them")
    else:
        mean, std = ([round(value, 4) for value in scale[part]] for part in ("mean", "std"))
        lines.append(f"inputs:        (pixel - mean) / std for each channel, mean {mean}, std {std};")
        lines.append("               pixels as the data set stores them: 0-255, of digits 0-16")
    if shape := use.get("image_shape"):
        lines.append(f"images:        {shape[0]} channels, {shape[1]} x {shape[2]} pixels, as the run brought them to")
    measured = ", ".join(f"{stem} {value:.4g}" for stem, value in use["measured"].items() if value is not None)
    on = f"{len(use['test_indices'])} test samples (test_indices)"
    lines.append(f"measured:      {measured} on its {on}" if measured else f"its test data: {on}")
    return lines


def _coded(coding: Mapping[str, Any]) -> str:
    """One column of a table as inputs."""
    if "categories" in coding:
        kinds = coding["categories"]
        some = ", ".join(kinds[:MAX_COLUMNS]) + (", …" if len(kinds) > MAX_COLUMNS else "")
        return f"a 0/1 for each {coding['column']} of {some}"
    return f"({coding['column']} - {coding['mean']:.6g}) / {coding['std']:.6g}"


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def find(run_dir: Path, rounds: int | None) -> Any:
    """The newest sound checkpoint, or the one after so many rounds.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    from fedpurin.run.checkpoint import CheckpointError, find_all, find_latest

    checkpoints = find_all(run_dir)
    kept = ", ".join(str(checkpoint.rounds_done) for checkpoint in checkpoints) or "none"
    if rounds is None:
        found = find_latest(run_dir, lambda line: print(f"fedpurin: {line}", file=sys.stderr))
    else:
        found = next((checkpoint for checkpoint in checkpoints if checkpoint.rounds_done == rounds), None)
    if found is None:
        wanted = "no sound checkpoint" if rounds is None else f"no checkpoint after {rounds} rounds"
        raise ConfigError(f"{run_dir} has {wanted} (kept: {kept}; checkpoint.every and checkpoint.keep decide)")
    if rounds is not None:
        try:
            found.verify()
        except CheckpointError as error:
            raise ConfigError(str(error)) from None
    return found
