"""Every option of a run, with its unit and range, as frozen dataclasses; the one place where options are checked.

Hydra composes YAML, `Config.from_mapping` converts it once at entry, and from there on the engine sees only
these classes: unknown keys, wrong types and values out of range end here, with a message that names the
option, what was given and what is possible. What an option changes is a mark beside it (`fedpurin.science`); one without a
mark changes the result. Options of a model, a method or a callback live with that class;
their mappings pass through here untouched (`model`, `method`, `callbacks`, `logger`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from fedpurin.data_config import FROZEN
from fedpurin.data_config import DataConfig as DataConfig
from fedpurin.data_config import PartitionConfig as PartitionConfig
from fedpurin.data_config import VolumeConfig as VolumeConfig
from fedpurin.metrics import ACCURACY_NAMES
from fedpurin.science import Changes, Part, ReadIf

_BRANCHES = ("int", "float", "str", "bool")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")

OPEN_SECTIONS = ("data", "partition", "program", "scores")
"""Sections that take a `_target_`: a function of the user's takes the place of what `name` chooses. The section's `own`
holds it (a dotted name, or from Python the function itself) with the options that only this function has."""


def _if_program(*names: str) -> ReadIf:
    return ReadIf("program.name", names)


class ConfigError(ValueError):
    """A mistake in what the user asked for: one or two lines that name the option and what is possible."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the nearest known word, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class RolesConfig:
    """Explicit module paths where roles by type do not do; see `fedpurin.space.Roles`."""

    head: str | None = None
    norm: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class ScoresConfig:
    """Perturbation scores, METHOD step 2."""

    order: Literal["second", "first", "random", "magnitude", "update"] = "second"
    """Of the expansion, |−g·w + ½(g·w)²| or |g·w|; or a control of equal density: a uniform number in [0, 1), |w|,
    |w − w⁰|. The controls read neither `source` nor `gradient_dtype`."""
    source: Literal["gradient", "update"] = "gradient"
    cutoff: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-10
    """A score at or below it is null: never critical."""
    gradient_dtype: Annotated[Literal["float16", "bfloat16", "float32"], ReadIf("scores.source", ("gradient",))] = (
        "float16"
    )
    own: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class ProgramConfig:
    """The critical-parameter program, METHOD step 3 and "Programs"."""

    name: Literal["layerwise", "global", "budget", "custom"] = "layerwise"
    tau: Annotated[float, Field(gt=0, le=1), _if_program("layerwise", "global")] = 0.5
    """Share of the parameters that may be critical: of each tensor (layerwise), of all (global)."""
    open_below: Annotated[float, Field(ge=0, allow_inf_nan=False), _if_program("layerwise")] = 0.0
    """A tensor whose ⌊τ n⌋-th largest score is at most this gives all of its scores that are not null; 0 turns it off.
    FedCAC's published code has 1e-10."""
    density_floor: Annotated[float, Field(ge=0, le=1), _if_program("global")] = 0.0
    """Least share of each tensor, of its non-null parameters where fewer are left (global)."""
    density_ceiling: Annotated[float, Field(ge=0, le=1), _if_program("global")] = 1.0
    """Greatest share of each tensor (global)."""
    budget: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | Annotated[int, Field(gt=0)], _if_program("budget")
    ] = 0.1
    """Upload bytes a client and round: up to 1.0 a fraction of the dense bytes, an integer above 1 bytes (budget)."""
    solver: str = "SCIP"
    """Any mixed-integer solver that CVXPY knows and that is installed."""
    reduce: bool = True
    """False hands the full program to the solver, one binary a parameter: the oracle for small cases."""
    gap_tolerance: Annotated[float, Field(ge=0, lt=1), _if_program("budget")] = 1e-4
    """Relative gap at which a solve may stop (budget)."""
    time_limit: Annotated[float, Field(gt=0)] = 60.0
    """Seconds a solve; at the limit the best feasible mask is used and its true gap recorded."""
    overlap: Annotated[bool | None, Changes.NOTHING] = None
    """Solve in a thread while the next client trains; None: on a GPU."""
    own: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> ProgramConfig:
        if self.density_floor > self.density_ceiling:
            raise ValueError(
                f"program.density_floor={self.density_floor} is above program.density_ceiling={self.density_ceiling}"
            )
        if self.name == "global" and self.density_floor > self.tau:
            raise ValueError(
                f"program.density_floor={self.density_floor} asks for more than program.tau={self.tau} allows"
            )
        if isinstance(self.budget, float) and self.budget > 1:
            raise ValueError(
                f"program.budget={self.budget} is neither a fraction (at most 1.0) nor whole bytes (an integer)"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class ExchangeConfig:
    """How clients' updates travel."""

    mode: Literal["on_demand", "direct"] = "on_demand"
    value_dtype: Literal["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] = "float32"
    """Type of values on the wire; the 16-bit and 8-bit types are lossy. `program=budget` plans with what they cost."""
    bucket_mib: Annotated[float, Field(gt=0), Changes.NOTHING] = 64.0
    """Upper bound of one bucket of a collective, MiB."""
    timeout_seconds: Annotated[float, Field(gt=0), Changes.NOTHING] = 600.0
    """A rank that does not answer a collective for this long ends the run."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class DistributionConfig:
    """A per-client distribution of a link property."""

    name: Literal["uniform", "lognormal"]
    low: Annotated[float, Field(ge=0)] = 0.0
    high: Annotated[float, Field(ge=0)] = 0.0
    median: Annotated[float, Field(ge=0)] = 0.0
    sigma: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the logarithm (lognormal)."""


LinkValue = Annotated[float, Field(ge=0, allow_inf_nan=False)] | DistributionConfig


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class NetworkConfig:
    """The link model that turns bytes into simulated seconds. Mbps are 10^6 bits a second."""

    up_mbps: LinkValue = 10.0
    down_mbps: LinkValue = 50.0
    latency_ms: LinkValue = 20.0
    """One way, milliseconds."""
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Personalised accuracy whose simulated time of arrival the summary tells."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class TrainerConfig:
    """The federated loop and the machine it runs on."""

    rounds: Annotated[int, Field(ge=1), Changes.LENGTH]
    local_epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 100
    clients_per_round: Annotated[int, Field(ge=1)] | None = None
    """Participants drawn each round; None: everyone."""
    init: Literal["same", "per_client"] = "same"
    """Whether what clients keep to themselves (heads, norms, everything of method=local) starts from the same draw for all,
    or from one of each client's own, as in many published codes. What is shared starts the same for all."""
    on_divergence: Literal["exclude", "stop"] = "exclude"
    """What to do with a client whose loss or parameters are not finite."""
    evaluate_every: Annotated[int, Field(ge=1), Changes.RECORD] = 1
    """Rounds between evaluations; the last round is always evaluated."""
    monitor: Annotated[str | None, Changes.RECORD] = None
    """The logged value that a run is judged by; None takes the accuracy, under any of its usual names."""
    monitor_mode: Annotated[Literal["max", "min"], Changes.RECORD] = "max"
    """Whether more or less of the monitored value is better."""
    devices: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Changes.NOTHING] = 1
    """Processes a node, one device each."""
    num_nodes: Annotated[int, Field(ge=1), Changes.NOTHING] = 1
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda"], Changes.NOTHING] = "auto"
    """Free to be named anew; another kind than the run began on is refused by its checkpoint, having other bits."""
    executor: Annotated[Literal["auto", "serial", "cohort", "graph"], Changes.BITS] = "auto"
    """How fits run: one client after the other, a cohort of them as one computation, or that as a CUDA graph; auto: by the
    size of a step, one of the first two."""
    cohort: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Changes.BITS] = "auto"
    """Consecutive clients of a cohort. The last bits of a fit depend on it, never on the number of processes."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: Annotated[bool, Changes.BITS] = False
    """Images go to the model with their channels next to each other in memory, in which convolutions may be faster."""
    threads: Annotated[Annotated[int, Field(ge=1)] | None, Changes.BITS] = 1
    """Intra-op threads of a process. The bits depend on it; None shares out the node's cores among its processes."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class ClientsConfig:
    """Where clients' models lie between their rounds. The results do not depend on it."""

    store: Literal["device", "cpu", "disk"] = "device"
    """device: where they are trained; cpu: a GPU's idle clients in the host's memory; disk: in files, as memory maps."""
    folder: str | None = None
    """Folder of those files, on a disk of the node; None: TMPDIR. They have no names and vanish with the process."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class CheckpointConfig:
    """When the state of a run is saved and how much of it is kept."""

    every: Annotated[int, Field(ge=0)] = 10
    """Rounds between checkpoints, and one after the last round; 0 saves none."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints that are kept."""
    monitor: str | None = "accuracy/personalized"
    """Entry of `metrics.jsonl` whose best checkpoint is kept as well; None keeps only the newest."""
    asynchronous: bool | None = None
    """Write in a thread while the next round trains, from a copy in memory; None: on a GPU."""
    grace_seconds: Annotated[float, Field(gt=0)] = 90.0
    """After USR1 or USR2, the longest wait for the round to end; after TERM at most 20. Then the round is abandoned."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class Config:
    """One run. Nested mappings for classes that Hydra instantiates stay mappings."""

    data: DataConfig
    partition: PartitionConfig
    model: dict[str, Any]
    method: dict[str, Any]
    trainer: TrainerConfig
    seed: Annotated[int, Field(ge=0, lt=2**31), Changes.DRAW] = 0
    roles: RolesConfig = RolesConfig()
    scores: ScoresConfig = ScoresConfig()
    program: ProgramConfig = ProgramConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    network: Annotated[NetworkConfig | None, Changes.RECORD] = None
    clients: Annotated[ClientsConfig, Changes.NOTHING] = ClientsConfig()
    checkpoint: Annotated[CheckpointConfig, Changes.NOTHING] = CheckpointConfig()
    callbacks: Annotated[
        dict[str, Any], Changes.RECORD, Part("progress", Changes.NOTHING), Part("mask_statistics", Changes.NOTHING)
    ] = Field(default_factory=dict)
    logger: Annotated[dict[str, Any], Changes.NOTHING] = Field(default_factory=dict)
    resume: Annotated[Literal["auto", "never"], Changes.NOTHING] = "never"
    """auto: go on with the run folder if it holds a run of this configuration."""
    name: Annotated[str, Changes.NOTHING] = "run"
    tags: Annotated[tuple[str, ...], Changes.NOTHING] = ()
    choices: Annotated[dict[str, str], Changes.NOTHING] = Field(default_factory=dict)
    """What was chosen of each config group (method: fedpurin_recommended), as a record: it changes nothing."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        for section in (self.partition, self.program):
            if (section.name == "custom") != bool(section.own):
                group = "partition" if section is self.partition else "program"
                raise ValueError(f"{group}.name={section.name}: {group}=custom and a {group}._target_ belong together")
        if self.trainer.monitor_mode == "min" and self.trainer.monitor in ACCURACY_NAMES:
            raise ValueError(
                f"trainer.monitor_mode=min with trainer.monitor={self.trainer.monitor}: of an accuracy more is better; "
                "leave monitor_mode out, or name the value of which less is better (trainer.monitor=mse)"
            )
        chosen, clients = self.trainer.clients_per_round, self.partition.num_clients
        if chosen is not None and chosen > clients:
            raise ValueError(f"trainer.clients_per_round={chosen} is more than partition.num_clients={clients}")
        return self

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Config:
        """Convert what Hydra composed.

        Raises:
            ConfigError: an unknown option, a wrong type, a value out of range or two options that contradict.
        """
        try:
            return TypeAdapter(cls).validate_python(_as_tuples(_gather_own(mapping)), strict=False)
        except ValidationError as error:
            raise ConfigError(explain_invalid(error)) from None

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`; a function of the user's is told by its name."""
        mapping = asdict(self)
        for section in OPEN_SECTIONS:
            own = mapping[section].pop("own")
            if own:
                mapping[section] |= own | {"_target_": name_of(own["_target_"])}
        return mapping


def name_of(target: Any) -> str:
    """The dotted name of a function, class or object; a name is one already."""
    if isinstance(target, str):
        return target
    home = target if hasattr(target, "__qualname__") else type(target)
    return f"{home.__module__}.{home.__qualname__}"


def _gather_own(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with a `_target_`: what the section does not know belongs to the function and goes into `own`."""
    gathered = dict(mapping)
    types: dict[str, Any] = {
        "data": DataConfig, "partition": PartitionConfig, "program": ProgramConfig, "scores": ScoresConfig,
    }  # fmt: skip
    for section in OPEN_SECTIONS:
        if not isinstance(mapping.get(section), Mapping):
            continue
        options = dict(mapping[section])
        if "own" in options:
            raise ConfigError(f"{section}.own: there is no such option")
        target = options.pop("_target_", None)
        if target is not None:
            known = {field.name for field in fields(types[section])}
            own = {name: options.pop(name) for name in sorted(options.keys() - known)}
            if section != "scores":
                options["name"] = str(target).rpartition(".")[2] if section == "data" else "custom"
            options["own"] = {"_target_": target, **own}
        gathered[section] = options
    return gathered


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def explain_invalid(error: ValidationError) -> str:
    """Pydantic's first objection as one line: option, what was given, what is possible (every branch of a union).

    A word that is not known comes first: it explains the one that is missing.
    """
    errors: list[Any] = sorted(error.errors(), key=lambda item: item["type"] not in _UNKNOWN)
    option, given = _option(errors[0]), errors[0].get("input")
    kind = errors[0]["type"]
    if kind == "value_error":
        return str(errors[0]["ctx"]["error"])
    if kind in _UNKNOWN:
        return f"{option}: there is no such option"
    if kind == "missing":
        return f"{option}: this option needs a value"
    messages = [item["msg"].removeprefix("Input ") for item in errors if _option(item) == option]
    return f"{option}={given!r} is not possible: it {', or '.join(dict.fromkeys(messages))}"


def _option(error: Any) -> str:
    """The dotted option that an error is about; pydantic appends the branch of a union, which is no option."""
    options = [str(part) for part in error["loc"]]
    return ".".join(part for part in options if re.fullmatch(r"[a-z_0-9]+", part) and part not in _BRANCHES)
