"""`fedpurin completion bash|zsh`: a script that completes commands, options and choices in the shell itself.

Owns: the words, and the script around them. Does not own: the commands' flags, which a test compares with this table.
The script starts no Python, so completion is instant; it knows what was there when it was written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedpurin.cli.text import Help

FLAGS = {
    "report": "--out --x --at-bytes --value --mode --style --width --font --font-size",
    "partition": "--out",
    "select": "--scores --model --sizes --cutoff --order --num-classes --in-channels --seed --program --tau "
    "--density-floor --density-ceiling --budget --value-dtype --exchange --solver --no-reduce --gap-tolerance "
    "--time-limit --save-mask",
    "resume": "--trust",
    "export": "--client --rounds --output",
    "sweep": "status expand --all --count --seed",
    "list": "--sort --reverse --csv",
    "reproduce": "--quick --jobs --status --expand --runs --out",
    "sync": "--project --entity --timeout",
    "new": "method model callback --into",
    "completion": "bash zsh",
}
"""What may follow each command, beside folders, files and (partition, resume) options of a run."""
TAKES_OPTIONS = ("partition", "resume")
OF_HYDRA = "--help --version --multirun --cfg"

ZSH = """\
# fedpurin: completion of commands, option=value and flags (made by `fedpurin completion zsh`)
(( $+functions[compdef] )) || {{ autoload -U compinit && compinit }}
_fedpurin() {{
    local -a options wanted
    options=({options})
    if (( CURRENT == 2 )); then
        wanted=({commands} {of_hydra} $options)
    else
        case "$words[2]" in
{cases}
            *) wanted=($options {of_hydra}) ;;
        esac
    fi
    compadd -S '' -- ${{(M)wanted:#*=}}
    compadd -- ${{wanted:#*=}}
    (( compstate[nmatches] )) && return
    compset -P '*='
    _files
}}
compdef _fedpurin fedpurin
"""
SCRIPT = """\
# fedpurin: completion of commands, option=value and flags (made by `fedpurin completion bash`)
_fedpurin() {{
    local word="${{COMP_LINE:0:COMP_POINT}}" words start
    word="${{word##* }}"
    local options="{options}"
    if (( COMP_CWORD == 1 )); then
        words="{commands} {of_hydra} $options"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
            *) words="$options {of_hydra}" ;;
        esac
    fi
    start="${{word%"${{word##*[=:]}}"}}"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if (( ${{#COMPREPLY[@]}} == 0 )); then
        COMPREPLY=($(compgen -f -- "${{word##*=}}"))
        compopt -o filenames 2> /dev/null
        return
    fi
    [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2> /dev/null
    COMPREPLY=("${{COMPREPLY[@]#"$start"}}")  # the shell has what stands before `=` already
}}
complete -F _fedpurin fedpurin
"""


def main(arguments: Sequence[str]) -> int:
    """`fedpurin completion SHELL`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin completion",
        description="Print a script that completes commands, options and choices with the tab key.",
        epilog="Once, for bash (for zsh: its name, and ~/.zshrc):\n"
        "  fedpurin completion bash > ~/.fedpurin-completion\n"
        "  echo '. ~/.fedpurin-completion' >> ~/.bashrc",
        formatter_class=Help,
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that will read it")
    print(script(parser.parse_args(list(arguments)).shell), end="")
    return 0


def script(shell: str) -> str:
    """The whole script. zsh has one of its own: its emulation of bash's completion reads other expansions."""
    from fedpurin.run.compose import compose_config, config_groups

    groups = [f"{group}={choice}" for group, choices in config_groups().items() for choice in choices]
    options = [f"{name}=" for name in option_names(compose_config([])[0].to_mapping())]
    text, case = (ZSH, "wanted=({})") if shell == "zsh" else (SCRIPT, 'words="{}"')
    cases = "\n".join(f"            {name}) {case.format(_after(name, flags))} ;;" for name, flags in FLAGS.items())
    return text.format(
        options=" ".join(sorted({*groups, *options})), commands=" ".join(FLAGS), of_hydra=OF_HYDRA, cases=cases
    )


def _after(command: str, flags: str) -> str:
    return f"{flags} --help{' $options' if command in TAKES_OPTIONS else ''}"


def option_names(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of a configuration's single values."""
    for key, value in mapping.items():
        if key in ("choices", "_target_", "name") or (not prefix and key in ("callbacks", "logger")):
            continue
        if isinstance(value, Mapping):
            yield from option_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
