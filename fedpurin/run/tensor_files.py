"""The tensors of a checkpoint, read as data: torch.distributed.checkpoint without its door for code.

DCP describes its files in `.metadata`, a pickle, which may call anything when it is read. Here it may name the few
classes that DCP itself writes. Its own statements are checked too, since it may come from somebody else: files lie
inside the checkpoint, and no tensor is larger than all files together. Does not own: which tensors a run saves
(checkpointer.py), whether files are what was saved (checkpoint.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

METADATA = ".metadata"
_DCP = "torch.distributed.checkpoint."
ALLOWED = {
    *((f"{_DCP}metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    (f"{_DCP}filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
}  # fmt: skip
"""What DCP's metadata is made of, beside torch's dtypes."""


class DamagedTensorsError(RuntimeError):
    """The files do not hold what a checkpoint holds; the text says what is wrong."""


class DataReader(dcp.FileSystemReader):
    """DCP's reader, whose metadata can name DCP's own classes only."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checked description of the files.

        Raises:
            DamagedTensorsError: it is not one, or wants more than data.
        """
        try:
            with Path(self.path, METADATA).open("rb") as file:
                metadata = _DataUnpickler(file).load()
            _check(metadata, Path(self.path))
        except DamagedTensorsError:
            raise
        except Exception as error:  # damaged pickles raise nearly anything
            raise DamagedTensorsError(f"{METADATA} cannot be read ({type(error).__name__}: {error})") from None
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return cast(Metadata, metadata)


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) not in ALLOWED:
            raise DamagedTensorsError(f"{METADATA} wants to call {module}.{name}, which no checkpoint does")
        return super().find_class(module, name)


def _check(metadata: Any, folder: Path) -> None:
    if not isinstance(metadata, Metadata):
        raise DamagedTensorsError(f"{METADATA} holds a {type(metadata).__name__}")
    for stored in metadata.storage_data.values():
        name = PurePosixPath(stored.relative_path)
        if len(name.parts) != 1 or name.is_absolute() or name.name in ("", ".."):
            raise DamagedTensorsError(f"{METADATA} names a file outside the checkpoint: {name}")
        if stored.transform_descriptors:
            raise DamagedTensorsError(f"{METADATA} names transforms: {stored.transform_descriptors}")
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    for key, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise DamagedTensorsError(f"{METADATA}: {key} is no tensor")
        if min(entry.size, default=0) < 0 or entry.size.numel() * entry.properties.dtype.itemsize > num_bytes:
            raise DamagedTensorsError(f"{METADATA}: {key} is larger than the files: {list(entry.size)}")


def read_tensors(folder: Path, wanted: Callable[[str], bool], device: torch.device | str) -> dict[str, Tensor]:
    """The tensors whose keys are wanted, in new memory. Every rank reads by itself.

    Raises:
        DamagedTensorsError: they cannot be read.
    """
    reader = DataReader(folder)
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if wanted(key) and isinstance(entry, TensorStorageMetadata)
    }
    try:
        dcp.load(cast(dict[str, Any], tensors), storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # a BaseException: `except Exception` would miss it
        cause = next(iter(error.failures.values()))[0] if error.failures else error
        text = str(cause).strip().splitlines()
        raise DamagedTensorsError(f"{type(cause).__name__}: {text[-1] if text else ''}") from None
    return tensors
