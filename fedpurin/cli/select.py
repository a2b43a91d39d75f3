"""`fedpurin select`: solve one critical-parameter program from the command line and print its certificate.

Owns arguments, the scores that they name and the table. A model is found by its dotted path at run time: the engine
does not import the models.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from fedpurin.cli.text import Help
from fedpurin.config import ConfigError, ProgramConfig, ScoresConfig, explain_invalid
from fedpurin.exchange.wire.costs import VALUE_BYTES, dense_bytes, encoding_costs, upload_overhead_bytes
from fedpurin.selection.certificate import Selection
from fedpurin.selection.scores import perturbation_scores
from fedpurin.selection.selector import Selector
from fedpurin.selection.solver import SolverError
from fedpurin.space import Layout, ParameterSpace

_EXAMPLES = """\
examples:
  fedpurin select --model resnet8                                     the published rule, half of every tensor
  fedpurin select --model resnet50 --program budget --budget 0.05     5 % of the dense bytes
  fedpurin select --model resnet8 --program budget --budget 200000    200,000 bytes
  fedpurin select --model cnn --program global --tau 0.1 --density-floor 0.01
  fedpurin select --scores scores.npz --program budget --budget 0.1   one array a tensor
  fedpurin select --scores scores.npy --sizes 9408,36864,640          one vector, cut into tensors

The certificate: no mask of the program has an objective (sum of the selected scores) above the upper bound; the gap is
how far the mask found may be from it. The core is what the reductions left to the solver.
"""
_BACKBONES = "lightning_modules.backbones"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(argv: list[str]) -> int:
    """Run `fedpurin select`; returns the exit code: 2 for what the user has to change, 1 for a failing solver."""
    try:
        arguments = _parser().parse_args(argv)
        program = _program(arguments)
        layout, scores = _load(arguments)
        selector = Selector(
            layout,
            program,
            value_bytes=VALUE_BYTES[arguments.value_dtype],
            overhead_bytes=upload_overhead_bytes(arguments.exchange),
        )
        selection = selector.solve(scores)
        if arguments.save_mask:
            np.save(arguments.save_mask, layout.extract(selection.mask).numpy())
    except (ConfigError, ValueError, OSError) as error:
        print(f"fedpurin select: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except SolverError as error:
        print(f"fedpurin select: {error}", file=sys.stderr)
        return 1
    _show(selection, layout, program, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fedpurin select",
        description="Solve one critical-parameter program (docs/method.md, step 3) and print its certificate.",
        epilog=_EXAMPLES,
        formatter_class=Help,
    )
    source = parser.add_argument_group("scores")
    either = source.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--scores", type=Path, metavar="FILE", help="scores: .npy (one vector) or .npz (one array a tensor)"
    )
    either.add_argument(
        "--model",
        metavar="NAME",
        help="a backbone (cnn resnet8 resnet10 resnet18 resnet50 vit_b_16), with initial weights and a random gradient",
    )
    source.add_argument("--sizes", metavar="N,N,…", help="sizes of the tensors in a .npy file (default: one tensor)")
    source.add_argument("--cutoff", type=float, default=1e-10, help="scores up to here are null (default: %(default)g)")
    source.add_argument(
        "--order", choices=("second", "first"), default="second", help="of the Taylor expansion (--model)"
    )
    source.add_argument("--num-classes", type=int, default=10, metavar="N", help="of the model (default: %(default)s)")
    source.add_argument("--in-channels", type=int, default=3, metavar="N", help="of the model (default: %(default)s)")
    source.add_argument("--seed", type=int, default=0, help="of weights and gradient (default: %(default)s)")
    limits = parser.add_argument_group("program")
    limits.add_argument(
        "--program", choices=("layerwise", "global", "budget"), default="layerwise", help="(default: %(default)s)"
    )
    limits.add_argument("--tau", type=float, default=0.5, help="share selected: of each tensor, or of all (global)")
    limits.add_argument(
        "--density-floor", type=float, default=0.0, metavar="SHARE", help="least share of each tensor (global)"
    )
    limits.add_argument(
        "--density-ceiling", type=float, default=1.0, metavar="SHARE", help="greatest share of each tensor (global)"
    )
    limits.add_argument("--budget", default="0.1", help="upload: a fraction of the dense bytes, or bytes (budget)")
    limits.add_argument(
        "--value-dtype",
        metavar="DTYPE",
        choices=sorted(VALUE_BYTES),
        default="float32",
        help=f"of values on the wire: {', '.join(sorted(VALUE_BYTES))} (budget; default: %(default)s)",
    )
    limits.add_argument(
        "--exchange", choices=("on_demand", "direct"), default="on_demand", help="decides the headers (budget)"
    )
    solving = parser.add_argument_group("solving")
    solving.add_argument(
        "--solver", default="SCIP", help="any mixed-integer solver that CVXPY finds (default: %(default)s)"
    )
    solving.add_argument(
        "--no-reduce", action="store_true", help="one binary a parameter: slow, and the oracle for small cases"
    )
    solving.add_argument(
        "--gap-tolerance", type=float, default=1e-4, help="relative gap to stop at (default: %(default)g)"
    )
    solving.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS", help="(default: %(default)g)")
    parser.add_argument(
        "--save-mask", type=Path, metavar="FILE", help="write the mask as booleans (.npy), tensors back to back"
    )
    return parser


def _program(arguments: argparse.Namespace) -> ProgramConfig:
    try:
        budget = float(arguments.budget)
    except ValueError:
        raise ConfigError(f"--budget={arguments.budget} is neither a fraction nor a number of bytes") from None
    try:
        return ProgramConfig(
            name=arguments.program,
            tau=arguments.tau,
            density_floor=arguments.density_floor,
            density_ceiling=arguments.density_ceiling,
            budget=int(budget) if budget > 1 and budget.is_integer() else budget,
            solver=arguments.solver,
            reduce=not arguments.no_reduce,
            gap_tolerance=arguments.gap_tolerance,
            time_limit=arguments.time_limit,
        )
    except ValidationError as error:
        line = explain_invalid(error)
        option, equals, rest = line.partition("=")
        flag = f"--{option.replace('_', '-')}" if equals and option.isidentifier() else option
        raise ConfigError(f"{flag}{equals}{rest}") from None


def _load(arguments: argparse.Namespace) -> tuple[Layout, Tensor]:
    """The layout and its scores, null below the cutoff."""
    if arguments.model:
        if arguments.sizes:
            raise ConfigError("--sizes cuts a --scores vector; a --model has its own tensors")
        return _score_model(arguments)
    layout, values = _read(arguments.scores, arguments.sizes)
    scores = torch.from_numpy(values)
    return layout, layout.embed(torch.where(scores <= arguments.cutoff, scores.clamp(max=0.0), scores))


def _read(path: Path, sizes: str | None) -> tuple[Layout, Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"scores": loaded}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"--scores={path} is not a .npy or .npz file of numbers ({error})") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not array.size:
            raise ConfigError(f"--scores={path}: {name} holds {array.size} values of {array.dtype}; numbers are needed")
    with np.errstate(over="ignore"):
        parts = {name: array.ravel().astype(np.float32) for name, array in arrays.items()}
    values = np.concatenate(list(parts.values()))
    if sizes is None:
        return Layout.from_sizes([part.size for part in parts.values()], list(parts)), values
    try:
        listed = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise ConfigError(f"--sizes={sizes} is not a list of whole numbers") from None
    if min(listed) < 1 or sum(listed) != values.size:
        raise ConfigError(f"--sizes={sizes} adds up to {sum(listed)}; {path} has {values.size} scores")
    return Layout.from_sizes(listed), values


def _score_model(arguments: argparse.Namespace) -> tuple[Layout, Tensor]:
    """Scores of a freshly initialised backbone under a random gradient, on its tensors that are not norms."""
    backbones = importlib.import_module(_BACKBONES)
    known = {name: getattr(backbones, name) for name in backbones.__all__}
    known = {name: build for name, build in known.items() if "in_channels" in inspect.signature(build).parameters}
    if arguments.model not in known:
        raise ConfigError(
            f"--model={arguments.model}: {_BACKBONES} has no such model of images; {', '.join(known)} are possible"
        )
    for option, count in (("num-classes", arguments.num_classes), ("in-channels", arguments.in_channels)):
        if count < 1:
            raise ConfigError(f"--{option}={count}: a model needs at least 1")
    torch.manual_seed(arguments.seed)
    module = known[arguments.model](num_classes=arguments.num_classes, in_channels=arguments.in_channels)
    space = ParameterSpace(module, shares=lambda segment: not segment.is_norm)
    weights = space.bind(module)[: space.shared.length]
    gradient = torch.randn(len(weights)).mul_(1e-3)
    config = ScoresConfig(order=arguments.order, cutoff=arguments.cutoff)
    return space.shared, perturbation_scores(weights, gradient, config)


def _show(selection: Selection, layout: Layout, program: ProgramConfig, arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    certificate = selection.certificate
    table = Table(title=f"{program.name} by {program.solver}", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    rows = {
        "status": certificate.status,
        "objective": f"{certificate.objective:.12g}",
        "upper bound": f"{certificate.upper_bound:.12g}",
        "relative gap": f"{certificate.gap:.3g}",
        "parameters": f"{layout.size:,} in {len(layout)} tensors",
        "null": f"{certificate.num_null:,}",
        "selected": f"{certificate.num_selected:,} ({certificate.num_selected / layout.size:.2%})",
        "core": f"{certificate.core_size:,} variables",
        "reduction": f"{certificate.reduction_seconds:.4f} s",
        "building": f"{certificate.building_seconds:.4f} s",
        "solver": f"{certificate.solver_seconds:.4f} s",
        "total": f"{certificate.total_seconds:.4f} s",
    }
    if selection.encodings is not None:
        value_bytes = VALUE_BYTES[arguments.value_dtype]
        planned = upload_overhead_bytes(arguments.exchange)
        for segment, encoding in zip(layout, selection.encodings, strict=True):
            count = int(selection.mask[segment.slice].sum())
            costs = {cost.encoding: cost for cost in encoding_costs(segment.size, value_bytes)}
            planned += costs[encoding].size(count)
        dense = dense_bytes(layout, value_bytes)
        rows["bytes at most"] = f"{planned:,} of {dense:,} dense ({planned / dense:.2%})"
        used = {encoding.name.lower(): selection.encodings.count(encoding) for encoding in selection.encodings}
        rows["encodings"] = ", ".join(f"{name} {number}" for name, number in sorted(used.items()))
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
