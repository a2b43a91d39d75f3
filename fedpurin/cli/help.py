"""What `fedpurin --help` prints; imports nothing heavy, so that it answers at once."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

from fedpurin.cli.text import fold
from fedpurin.config import ConfigError, did_you_mean

COMMANDS = {
    "report": "compare finished runs: tables, figures and one page to look at",
    "partition": "show how a partition deals the samples to clients; nothing is trained",
    "select": "solve one critical-parameter program and print its certificate",
    "resume": "continue a run from its newest checkpoint, with the same bits",
    "export": "write one client's personalised model (safetensors, Lightning)",
    "sweep": "what has become of a sweep's runs; a W&B sweep file as overrides",
    "list": "a folder's runs: method, data, accuracy, bytes, state; sortable",
    "reproduce": "run the studies behind docs/results.md again and compare",
    "sync": "upload runs to W&B that were recorded offline or in part",
    "new": "write a method, model or callback to start from: code, YAML, test",
    "completion": "a script for bash or zsh: the tab key completes commands and options",
}

HYDRA_FLAGS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell-completion",
    "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip
HYDRA_LETTERS = ("-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i")
HYDRA_TAKES = ("config", "cfg", "info", "package", "c", "i", "p")
"""Hydra's own flags with a value, `--cfg=job`; those with a dash in their name are no option of ours either."""

EXAMPLES = """\
  fedpurin                                        10 clients on digits, FedPURIN
  fedpurin method=fedavg seed=3                   another method, another seed
  fedpurin data=fashion_mnist partition.train_per_client=100 partition.alpha=0.1
  fedpurin experiment=paper_fashion_mnist trainer.rounds=3
  fedpurin -m method=local,fedavg,fedpurin seed=1,2,3"""


OPTIONS = (
    "seed trainer.rounds trainer.local_epochs trainer.batch_size trainer.devices trainer.clients_per_round "
    "partition.num_clients partition.alpha program.tau program.budget scores.source method.beta exchange.value_dtype "
    "data.root"
)
NOTES = (
    "Sweeps: -m runs every combination of comma-separated values (Hydra multirun).",
    "Several processes: trainer.devices=2, or torchrun --nproc-per-node 2 -m fedpurin ...",
    "Tab key: fedpurin completion bash > ~/.fedpurin-completion; source it in ~/.bashrc.",
    "A run folder (hydra.run.dir, default outputs/DATE/TIME) gets metrics.jsonl, clients.csv, summary.json, config.yaml and "
    "the log. Mistakes end with exit code 2 and one or two lines; HYDRA_FULL_ERROR=1 shows the traceback.",
)


def check_command(arguments: Sequence[str]) -> None:
    """Refuse a first word that is neither a command nor an override, and options that are written otherwise.

    Raises:
        ConfigError: names the commands, or how an option is written.
    """
    for argument in arguments:
        if (match := re.match(r"--?([A-Za-z][\w.]*)=", argument)) and match[1] not in HYDRA_TAKES:
            raise ConfigError(f"{argument}: an option is written without dashes: {argument.lstrip('-')}")
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        _check_flag(argument, following)
    word = arguments[0] if arguments else ""
    if arguments[1:2] and arguments[1].startswith("="):
        raise ConfigError(f"{' '.join(arguments)}: an option is written without spaces: {''.join(arguments[:3])}")
    if re.fullmatch(r"[A-Za-z][A-Za-z_0-9-]*", word):
        from fedpurin.run.compose import config_groups

        known = ", ".join(COMMANDS)
        chosen = [f"{group}={word}" for group, choices in config_groups().items() if word in choices]
        meant = f"; did you mean {' or '.join(chosen)}?" if chosen else did_you_mean(word, COMMANDS)
        raise ConfigError(
            f"{word}: there is no such command{meant}\ncommands: {known}; an option is written option=value"
        )


def _check_flag(argument: str, following: str) -> None:
    """Refuse what starts with a dash and is no flag of Hydra's, in a line instead of Hydra's usage."""
    flag = argument.partition("=")[0]
    is_known = (
        any(known.startswith(flag) for known in HYDRA_FLAGS)
        if flag.startswith("--")
        else flag.startswith(HYDRA_LETTERS)
    )
    if not argument.startswith("-") or is_known:
        return
    meant = did_you_mean(flag, HYDRA_FLAGS)
    if not meant and following and not following.startswith("-") and "=" not in following:
        meant = f"; an option is written {flag.lstrip('-')}={following}"
    raise ConfigError(f"{argument}: there is no such flag{meant or '; fedpurin --help shows what there is'}")


def help_text() -> str:
    """The whole help page, wrapped to the terminal."""
    from fedpurin.run.compose import (
        config_groups,  # Hydra: a few tenths of a second that other commands need not pay
    )

    width = min(shutil.get_terminal_size().columns, 100)
    groups = config_groups()
    choices = [
        textwrap.fill(f"{group:<10} {' '.join(names)}", width, initial_indent="  ", subsequent_indent=" " * 13)
        for group, names in groups.items()
    ]
    about = textwrap.fill(
        "Simulates personalised federated learning: one model per client, trained on its own data. FedPURIN finds, by "
        "an integer program over perturbation scores, the few parameters of each client that matter, and exchanges "
        "only those.",
        width,
    )
    commands = "\n".join(
        textwrap.fill(f"  fedpurin {name:<10} {what}", width, subsequent_indent=" " * 22)
        for name, what in COMMANDS.items()
    )
    options = textwrap.fill(OPTIONS, width, initial_indent="  ", subsequent_indent="  ")
    notes = "\n".join(textwrap.fill(note, width, break_on_hyphens=False) for note in NOTES)
    return f"""\
usage: fedpurin [option=value ...]        train a federation
       fedpurin COMMAND ... [--help]      any other

{about}

Examples
{chr(10).join(fold(EXAMPLES, width))}

Choices (group=choice)
{chr(10).join(choices)}

Options (group.option=value; all: fedpurin --cfg job)
{options}

Commands
{commands}

{notes}
"""
