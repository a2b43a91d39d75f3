"""`fedpurin partition`: the table fits 80 columns with ten classes and with a hundred, and the figure is written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedpurin.cli.partition import draw_partition, main, print_partition
from fedpurin.config import ConfigError, PartitionConfig
from fedpurin.data import partition
from tests.data.conftest import MakeData


def lines(make_data: MakeData, classes: int, width: int = 80) -> list[str]:
    data = make_data([40] * classes, [10] * classes)
    console = Console(file=io.StringIO(), width=width)
    print_partition(partition(PartitionConfig(name="dirichlet", num_clients=4), data, 0), data, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_ten_classes_get_a_column_each(make_data: MakeData) -> None:
    table = lines(make_data, 10)
    assert all(len(line) <= 80 for line in table)
    assert table[1].split() == ["client", "all", *map(str, range(10))]
    assert table[-3].split()[:4] == ["all", "train", "400", "40"]
    assert table[-2].split()[:3] == ["test", "100", "10"]
    assert table[-1].startswith("custom: 4 clients, training samples 100")


def test_a_hundred_classes_are_summed_up(make_data: MakeData) -> None:
    table = lines(make_data, 100)
    assert all(len(line) <= 80 for line in table)
    assert "most frequent" in table[1]
    assert " more" in "".join(table)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("classes", [3, 30])
def test_figure(make_data: MakeData, tmp_path: Path, suffix: str, classes: int) -> None:
    data = make_data([40] * classes, [10] * classes)
    out = tmp_path / f"figure{suffix}"
    draw_partition(partition(PartitionConfig(name="iid", num_clients=5), data, 0), data, out)
    assert out.stat().st_size > 1000


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "deal.png"
    assert main(["partition.num_clients=3", "--out", str(out)]) == 0
    assert out.is_file()
    assert "digits: 3 clients, training samples 479–480" in capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "fedpurin partition [-h] [--out FILE]" in capsys.readouterr().out


def test_a_figure_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--out"])
    assert end.value.code == 2
    assert "argument --out: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "table.txt"], "--out table.txt is not possible"),
        (["--out", "/proc/nowhere/figure.png"], "cannot be written"),
        (["partition.alpha=0"], "partition.alpha"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)
