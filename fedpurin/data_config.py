"""Options of the data and of who holds them, with their units and ranges: part of `fedpurin.config`, which checks them.

Owns: the classes `DataConfig`, `PartitionConfig` and `VolumeConfig`. Does not own: reading data (data/).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fedpurin.science import Changes, ReadIf

FROZEN = ConfigDict(extra="forbid", strict=True)


def _if_partition(*names: str) -> ReadIf:
    return ReadIf("partition.name", names)


def _if_volume(*names: str) -> ReadIf:
    return ReadIf("partition.volume.name", names)


def _if_data(*names: str) -> ReadIf:
    return ReadIf("data.name", names)


_COLUMNS = ("table", "huggingface")
_FETCHED = ("fashion_mnist", "cifar10", "cifar100", "huggingface")


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class DataConfig:
    """Which images, where they are, and what happens to them on the device."""

    name: str
    root: Annotated[str | None, Changes.NOTHING, _if_data(*_FETCHED, "image_folder", "arrays", "leaf", "table")] = None
    """Folder that holds the data set; None searches the usual places and, with `download`, makes `data/`."""
    label: Annotated[str, _if_data(*_COLUMNS, "own-data")] = "label"
    """Column of the class or target (table, huggingface); its key in samples that are mappings."""
    target: Annotated[Literal["classes", "numbers"], _if_data("arrays", *_COLUMNS)] = "classes"
    """What the targets are: any labels, or numbers to be predicted (arrays, table, huggingface)."""
    client: Annotated[str | None, _if_data(*_COLUMNS)] = None
    """Column that says whose a row is (table, huggingface), for partition=natural."""
    test_share: Annotated[float, Field(gt=0, lt=1), _if_data("arrays", "leaf", *_COLUMNS)] = 0.2
    """Part held out for testing of each client, else of each class, where there is no test set (arrays, leaf, table,
    huggingface)."""
    download: Annotated[bool, Changes.NOTHING, _if_data(*_FETCHED)] = True
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to which images are resized; None keeps the data set's own (image folders: the median)."""
    channels: Literal[1, 3] | None = None
    """Colour channels; None keeps the data set's own."""
    normalise: Literal["standardise", "unit", "none"] = "standardise"
    """uint8 images: by each channel's mean and deviation over the training pool, to [0, 1], or pixel values as they are."""
    flip: bool = False
    """Mirror training images left to right with probability one half."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn training images by an angle drawn within ± so many degrees, nearest pixel; 0 turns it off."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Pixels of padding (zeros, after normalisation) before a random crop back to size; 0 turns it off."""
    own: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class VolumeConfig:
    """How unequal the clients' data volumes are. Sizes are scaled so that they add up to the same total."""

    name: Literal["equal", "lognormal", "powerlaw"] = "equal"
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False), _if_volume("lognormal")] = 1.0
    """Standard deviation of log size (lognormal)."""
    exponent: Annotated[float, Field(gt=0, allow_inf_nan=False), _if_volume("powerlaw")] = 1.0
    """Size of the k-th largest client is proportional to k^-exponent (powerlaw)."""
    floor: Annotated[int, Field(ge=1), _if_volume("lognormal", "powerlaw")] = 10
    """Training samples that every client gets at least."""


@dataclass(frozen=True, kw_only=True, config=FROZEN)
class PartitionConfig:
    """How samples are dealt to clients; train and test follow the same class proportions."""

    name: Literal["iid", "dirichlet", "dirichlet_by_class", "pathological", "natural", "file", "custom"]
    num_clients: Annotated[int, Field(ge=1)]
    train_per_client: Annotated[int, Field(ge=1)] | None = None
    """Mean training samples a client; None shares out the whole pool."""
    test_per_client: Annotated[int, Field(ge=1)] | None = None
    disjoint: bool = True
    """True: no sample belongs to two clients. False: every client draws from the whole pool (the paper)."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False), _if_partition("dirichlet", "dirichlet_by_class")] = 0.5
    """Dirichlet concentration; small means few classes a client."""
    classes_per_client: Annotated[int, Field(ge=1), _if_partition("pathological")] = 2
    file: Annotated[str | None, _if_partition("file")] = None
    """JSON or CSV of each client's indices (partition=file)."""
    volume: VolumeConfig = VolumeConfig()
    seed: Annotated[int, Field(ge=0)] | None = None
    """Who gets which samples; None: the run's own seed. A fixed one keeps the clients while weights and batches vary."""
    own: dict[str, Any] = Field(default_factory=dict)
