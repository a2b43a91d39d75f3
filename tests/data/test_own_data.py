"""Arrays, tables and given partitions, by literal values."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedpurin.config import ConfigError, DataConfig, PartitionConfig
from fedpurin.data import LabelledData, load, partition
from fedpurin.data.natural import owned


def table(root: Path, text: str, **options: object) -> LabelledData:
    (root / "t.csv").write_text(text)
    return load(DataConfig(name="table", root=str(root / "t.csv"), **options), 0)  # type: ignore[arg-type]


def test_columns_are_standardised_and_coded(tmp_path: Path) -> None:
    for split, rows in (("train", "1,red,b\n3,blue,a\n"), ("test", "5,red,a\n")):
        (tmp_path / f"{split}.csv").write_text("size,colour,kind\n" + rows)
    data = load(DataConfig(name="table", root=str(tmp_path), label="kind"), 0)
    assert data.class_names == ("a", "b")
    assert data.train.inputs.tolist() == [[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert data.test.inputs.tolist() == [[3.0, 0.0, 1.0]]
    assert data.train.labels.tolist() == [1, 0]


def test_clients_by_a_column(tmp_path: Path) -> None:
    rows = "".join(f"{n},{'xy'[n % 2]},{'pqr'[n % 3]}\n" for n in range(30))
    data = table(tmp_path, "f,label,who\n" + rows, client="who")
    parts = partition(PartitionConfig(name="natural", num_clients=3), data, 0)
    assert [len(part) for part in parts.train] == [8, 8, 8]
    assert [len(part) for part in parts.test] == [2, 2, 2]
    with pytest.raises(ConfigError, match="there are 3 clients; set it to 3"):
        partition(PartitionConfig(name="natural", num_clients=10), data, 0)


@pytest.mark.parametrize("route", ["arrays", "table", "folder", "python"])
def test_client_10_comes_after_client_9_on_every_route(route: str, tmp_path: Path) -> None:
    names = [10, 2, 11, 1, 0, 9]
    if route in ("arrays", "python"):
        x, y = np.zeros((6, 2), dtype=np.float32), [0, 1] * 3
        mine: dict[str, Any] = {"client_train": names, "client_test": names} if route == "arrays" else {}
        np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y, **mine)
        data = load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)
        data = owned(data, (list(map(str, names)), list(map(str, names)))) if route == "python" else data
    elif route == "table":
        for split in ("train", "test"):
            (tmp_path / f"{split}.csv").write_text("f,label,who\n" + "".join(f"{n},{n % 2},{n}\n" for n in names))
        data = load(DataConfig(name="table", root=str(tmp_path), client="who"), 0)
    else:
        for n, split, kind in itertools.product(names, ("train", "test"), "ab"):
            (folder := tmp_path / str(n) / split / kind).mkdir(parents=True)
            Image.new("L", (2, 2)).save(folder / "1.png")
        data = load(DataConfig(name="image_folder", root=str(tmp_path)), 0)
    parts = partition(PartitionConfig(name="natural", num_clients=6), data, 0)
    assert data.clients is not None
    owners = [{str(name) for name in data.clients[0][part]} for part in parts.train]
    assert owners == [{"0"}, {"1"}, {"2"}, {"9"}, {"10"}, {"11"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [("f,kind\n1,2\n", "label: .* no such column"), ("f,label\n,2\n", "column f is empty in row 1"),
     ("f,label\n1\n", "line 2 has another number"), ("f,label,f\n1,a,2\n", "two columns are called f; each needs"),
     ("f,label,label\n1,a,b\n", "two columns are called label"), (",f,label\n0,1,a\n", "column 1 has no name")],
)  # fmt: skip
def test_mistakes_in_a_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table(tmp_path, text)


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the optional package pyarrow")
    from pyarrow import parquet

    columns = {"size": [1.0, 3.0, 5.0, 7.0] * 3, "colour": ["red", "blue"] * 6, "label": list("ab") * 6}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    data = load(DataConfig(name="table", root=str(tmp_path / "t.parquet")), 0)
    rows = "".join(f"{a},{b},{c}\n" for a, b, c in zip(*columns.values(), strict=True))
    same = table(tmp_path, "size,colour,label\n" + rows)
    assert data.train.inputs.tolist() == same.train.inputs.tolist()
    assert data.coding[1] == {"column": "colour", "categories": ["blue", "red"]}
    (tmp_path / "t.parquet").write_text("PAR1 and nothing else")
    with pytest.raises(ConfigError, match=r"t\.parquet cannot be read as a table"):
        load(DataConfig(name="table", root=str(tmp_path / "t.parquet")), 0)


def test_arrays_of_safetensors_and_npy_files(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    x, y = np.arange(24, dtype=np.float32).reshape(12, 2) / 12, np.arange(12) % 2
    save_file({"x": x, "y": y, "client": np.arange(12) % 3}, tmp_path / "a.safetensors")
    (tmp_path / "npy").mkdir()
    for name, array in (("x", x), ("y", y), ("client", np.arange(12) % 3)):
        np.save(tmp_path / "npy" / f"{name}.npy", array)
    one, other = (load(DataConfig(name="arrays", root=str(tmp_path / n)), 0) for n in ("a.safetensors", "npy"))
    assert one.train.inputs.tolist() == other.train.inputs.tolist()
    assert sorted(one.train.inputs[:, 0].tolist() + one.test.inputs[:, 0].tolist()) == x[:, 0].tolist()
    assert [len(part) for part in partition(PartitionConfig(name="natural", num_clients=3), other, 0).train] == [3] * 3


def test_numbers_are_used_as_they_are_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((10, 2), 16.0), y=[0, 1] * 5)
    load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)
    assert "x is used as it is, though its root mean square is 16 and not near 1" in caplog.text
    for more in ({}, {"weight": np.ones(10)}):
        np.savez(tmp_path / "a.npz", x=np.full((10, 2), 16.0), y=[0, 1] * 5, **more)
        with pytest.raises(ConfigError, match=r"data\.normalise=unit scales uint8 images; data=arrays has none"):
            load(DataConfig(name="arrays", root=str(tmp_path / "a.npz"), normalise="unit"), 0)


@pytest.mark.parametrize(("shape", "inputs"), [((8, 8), (1, 8, 8)), ((3, 8, 8), (3, 8, 8)), ((1, 2, 3), (1, 2, 3))])
def test_arrays_of_images(tmp_path: Path, shape: tuple[int, ...], inputs: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, *shape), dtype=np.uint8), y=[0, 1] * 5)
    data = load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)
    assert data.train.inputs.shape[1:] == inputs


@pytest.mark.parametrize("colours", [1, 3])
def test_arrays_of_images_whose_colours_come_last_are_named(tmp_path: Path, colours: int) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 8, 6, colours), dtype=np.uint8), y=[0, 1] * 5)
    with pytest.raises(ConfigError, match=rf"images are 8 × 6 × {colours} uint8, .* x\.transpose\(0, 3, 1, 2\)"):
        load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)


def test_arrays_with_sparse_labels(tmp_path: Path) -> None:
    x = np.arange(20).reshape(10, 2)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[7, 500] * 5, x_test=x[:2], y_test=[500, 7])
    data = load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)
    assert data.class_names == ("7", "500")
    assert data.test.labels.tolist() == [1, 0]
    assert data.train.inputs.tolist() == x.tolist()


def test_indices_from_files(tmp_path: Path) -> None:
    x = np.zeros((4, 2), dtype=np.float32)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    data = load(DataConfig(name="arrays", root=str(tmp_path / "a.npz")), 0)
    (tmp_path / "p.json").write_text('{"train": [[3, 0], [1]], "test": [[2], [0, 1]]}')
    (tmp_path / "p.csv").write_text(
        "split,client,index\ntrain,0,3\ntrain,0,0\ntrain,1,1\ntest,0,2\ntest,1,0\ntest,1,1\n"
    )
    for name in ("p.json", "p.csv"):
        config = PartitionConfig(name="file", num_clients=2, file=str(tmp_path / name))
        parts = partition(config, data, 0)
        assert [part.tolist() for part in parts.train] == [[0, 3], [1]]
        assert parts.class_counts.tolist() == [[1, 1], [0, 1]]
        assert [part.tolist() for part in parts.test] == [[2], [0, 1]]
    (tmp_path / "p.json").write_text('{"train": [[4], [1]], "test": [[2], [0]]}')
    with pytest.raises(ConfigError, match="client 0's train indices must be different numbers from 0 to 3"):
        partition(PartitionConfig(name="file", num_clients=2, file=str(tmp_path / "p.json")), data, 0)
    (tmp_path / "p.json").write_text('{"train": [[3], [1]], "test": [[0, 2], [2]]}')
    with pytest.raises(ConfigError, match=r"test sample 2 belongs to 2 clients; set partition\.disjoint=false if"):
        partition(PartitionConfig(name="file", num_clients=2, file=str(tmp_path / "p.json")), data, 0)
    shared = PartitionConfig(name="file", num_clients=2, file=str(tmp_path / "p.json"), disjoint=False)
    assert [part.tolist() for part in partition(shared, data, 0).test] == [[0, 2], [2]]


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package datasets: pip install 'fedpurin\[huggingface\]'"):
        load(DataConfig(name="huggingface", root="somewhere"), 0)
