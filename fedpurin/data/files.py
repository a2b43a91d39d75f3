"""Finding, downloading and decoding the files of published data sets.

Owns: where a data set's files may lie, the download through torchvision, the IDX and CIFAR formats, and the
one-line error for every file that is missing or damaged. Does not own: which files make up a data set
(sources.py).

Files are used as they are and never changed. Only where no folder holds any of a data set's files, and
`data.download` allows it, torchvision downloads: into `data.root`, or into `data/` where that is null.
"""

from __future__ import annotations

import fcntl
import gzip
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedpurin.config import ConfigError, DataConfig

DOWNLOAD_FOLDER = Path("data")
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zlib.error, tarfile.TarError, pickle.UnpicklingError)


@dataclass(frozen=True)
class PublishedFiles:
    """The files of one published data set: each under its first name that exists, all in one folder."""

    title: str
    torchvision_class: str
    folder: str
    """Folder that torchvision makes inside its root."""
    files: tuple[tuple[str, ...], ...]
    """Each file's possible names."""
    archive: str | None = None
    """Archive that holds all of them."""
    elsewhere: tuple[Path, ...] = ()
    """Folders searched when `data.root` is null."""

    def find(self, config: DataConfig) -> list[Path]:
        """Paths of all files in order, or of the archive alone; downloads what was found nowhere.

        Raises:
            ConfigError: `data.root` does not exist, some files are missing, or the download failed.
        """
        root = None if config.root is None else Path(config.root).expanduser()
        if root is not None and not root.exists():
            raise ConfigError(f"data.root={config.root}: there is no such folder; {self._wanted()}")
        folders = (DOWNLOAD_FOLDER, *self.elsewhere) if root is None else (root,)
        if found := self._search(folders):
            return found
        if not config.download:
            places = ", ".join(map(str, folders))
            raise ConfigError(f"data.root={config.root}: {self.title} is not in {places}; {self._wanted()}")
        return self._download(root or DOWNLOAD_FOLDER)

    def _search(self, roots: Sequence[Path]) -> list[Path] | None:
        for root in roots:
            if self.archive is not None:
                for archive in (root, root / self.archive):
                    if archive.name == self.archive and archive.is_file():
                        return [archive]
            for folder in (root, root / self.folder):
                present = [[folder / name for name in names if (folder / name).is_file()] for names in self.files]
                if all(present):
                    return [choices[0] for choices in present]
                if any(present):
                    missing = [names[0] for names, choices in zip(self.files, present, strict=True) if not choices]
                    raise ConfigError(f"data.root: {folder} lacks {', '.join(missing)}; {self._wanted()}")
        return None

    def _download(self, root: Path) -> list[Path]:
        from torchvision import datasets

        try:
            root.mkdir(parents=True, exist_ok=True)
            with _locked(root / f".{self.torchvision_class}.lock"):
                if found := self._search([root]):  # another process was faster
                    return found
                getattr(datasets, self.torchvision_class)(str(root), download=True)
        except (OSError, RuntimeError, EOFError, zlib.error, tarfile.TarError) as error:
            raise ConfigError(
                f"data.root={root}: no {self.title} there, and the download failed ({_one_line(error)}); "
                f"{self._wanted()}"
            ) from None
        found = self._search([root])
        assert found is not None, "torchvision downloaded to another place"
        return found

    def _wanted(self) -> str:
        archive = f", or {self.archive}" if self.archive else ""
        return f"give a folder that holds {', '.join(names[0] for names in self.files)} (or {self.folder}/){archive}"


def read_idx(path: Path, num_dims: int) -> NDArray[np.uint8]:
    """An IDX file of bytes, gzipped or not, as an array of `num_dims` dims."""
    with _damage_named(path):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
        header = 4 + 4 * num_dims
        if content[:4] != bytes([0, 0, 8, num_dims]):
            raise ValueError(f"it does not start like an IDX file of bytes with {num_dims} dims")
        shape = np.frombuffer(content, ">u4", num_dims, offset=4)
        if len(content) != header + int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"it says {' × '.join(map(str, shape))} and holds {len(content) - header} bytes")
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def read_pickles(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """CIFAR's pickled dictionaries: one a path, or those called `names` in the one archive that is given."""
    if len(paths) == len(names):
        return [_read_pickle(path.open("rb"), path) for path in paths]
    (archive,) = paths
    with _damage_named(archive), tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        if missing := [name for name in names if name not in members]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return [_read_pickle(tar.extractfile(members[name]), archive / name) for name in names]


def _read_pickle(file: IO[bytes] | None, path: Path) -> dict[str, Any]:
    assert file is not None, "only regular files are asked for"
    with _damage_named(path), file:
        content = _ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain values and NumPy arrays and refuses the rest, for a pickle may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        allowed = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return super().find_class(module, name)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(
            f"data.root: {path} cannot be read ({_one_line(error)}); put the original file there"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of the machine in at a time: ranks and array jobs start together and want the same download."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
