"""data=huggingface: saved folders of the package datasets, text by the tokenizer beside it; all made here, offline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpurin.config import ConfigError, DataConfig, PartitionConfig
from fedpurin.data import LabelledData, Pool, load, partition

datasets = pytest.importorskip("datasets", reason="needs the optional package datasets")


def save(folder: Path, **columns: Any) -> Path:
    datasets.Dataset.from_dict(columns).save_to_disk(str(folder))
    return folder


def save_tokenizer(folder: Path, *special: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the optional package tokenizers")
    words = {word: number for number, word in enumerate([*special, "[UNK]", "good", "bad", "film"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def read(folder: Path, **options: Any) -> LabelledData:
    return load(DataConfig(name="huggingface", root=str(folder), **options), seed=0)


def test_text_by_the_tokenizer_beside_it(tmp_path: Path) -> None:
    texts = ["good film", "bad", "a good good film", "film"] * 5
    save(tmp_path / "d", text=texts, label=["+", "-"] * 10, who=list("uuvv") * 5)
    with pytest.raises(ConfigError, match=r"column text is text, and there is no tokenizer\.json beside it"):
        read(tmp_path / "d", client="who")
    save_tokenizer(tmp_path / "d", "[PAD]")
    data = read(tmp_path / "d", client="who")
    assert (data.class_names, data.padding, data.vocabulary) == (("+", "-"), 0, 5)
    assert isinstance(data.train, Pool)
    rows = {tuple(row) for row in data.train.inputs.tolist()}
    assert rows == {(2, 4, 0, 0), (3, 0, 0, 0), (1, 2, 2, 4), (4, 0, 0, 0)}
    parts = partition(PartitionConfig(name="natural", num_clients=2), data, 0)
    assert [len(part) for part in parts.train] == [8, 8]


def test_a_tokenizer_without_padding_gets_a_token_more(tmp_path: Path) -> None:
    save(tmp_path / "d", text=["good film", "bad"] * 4, label=[0, 1] * 4)
    save_tokenizer(tmp_path / "d")
    data = read(tmp_path / "d")
    assert (data.padding, data.vocabulary) == (4, 5)


def test_splits_and_names_of_classes(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"x": datasets.Sequence(datasets.Value("float32")), "y": classes})

    def split(count: int) -> Any:
        columns = {"x": [[float(n), 1.0] for n in range(count)], "y": [n % 2 for n in range(count)]}
        return datasets.Dataset.from_dict(columns, features)

    datasets.DatasetDict({"train": split(6), "test": split(2)}).save_to_disk(str(tmp_path / "d"))
    data = read(tmp_path / "d", label="y")
    assert data.class_names == ("cat", "dog")
    assert data.train.num_samples == 6
    assert isinstance(data.test, Pool)
    assert data.test.inputs.tolist() == [[0.0, 1.0], [1.0, 1.0]]
    unlabelled = datasets.Dataset.from_dict({"x": [[1.0, 1.0]], "y": [-1]}, features)
    datasets.DatasetDict({"train": split(6), "test": unlabelled}).save_to_disk(str(tmp_path / "e"))
    with pytest.raises(ConfigError, match=r"data\.label=y: -1 is none of its 2 classes"):
        read(tmp_path / "e", label="y")


def test_several_columns_make_mappings(tmp_path: Path) -> None:
    save(tmp_path / "d", input_ids=[[3, 4], [5]] * 4, attention_mask=[[1, 1], [1, 0]] * 4, labels=[0, 1] * 4)
    data = read(tmp_path / "d", label="labels")
    batch = next(data.train.batches([0], 1))
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() in ([[3, 4]], [[5, 6]])  # 6 fills up


def test_images(tmp_path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)) for level in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features).save_to_disk(str(tmp_path / "d"))
    data = read(tmp_path / "d")
    assert data.train.sample_shape == (3, 4, 4)
    assert read(tmp_path / "d", image_size=2, channels=1).train.sample_shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": [1, 2], "y": [0, 1]}, {}, "data.label=label: there is no such column; there are x, y"),
        ({"x": [1, 2], "label": [0, 1]}, {"client": "who"}, "data.client=who: there is no such column"),
        ({"label": [0, 1]}, {}, "no column beside data.label=label"),
        ({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}, {}, "column x holds no images, text or numbers of one shape"),
    ],
)
def test_mistakes(tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    many = {name: values * 4 for name, values in columns.items()}
    with pytest.raises(ConfigError, match=message):
        read(save(tmp_path / "d", **many), **options)


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"there is no such folder, and data\.download=false asks no hub"):
        read(tmp_path / "none", download=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be loaded .*; give the folder that save_to_disk made"):
        read(tmp_path / "empty")

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"Couldn't reach 'ag_news'.*load_dataset\('ag_news'\).save_to_disk\(FOLDER\)"
    ):
        load(DataConfig(name="huggingface", root="ag_news"), 0)
    assert time.monotonic() - began < 15, "at once, not after a minute of retries"


@pytest.mark.slow
def test_a_run_on_saved_text(tmp_path: Path) -> None:
    texts = ["good film", "bad film", "good good", "bad"] * 15
    save(tmp_path / "d", text=texts, label=[0, 1] * 30, who=list("uuvv") * 15)
    save_tokenizer(tmp_path / "d", "[PAD]")
    options = [
        "data=huggingface", f"data.root={tmp_path / 'd'}", "data.client=who", "partition=natural",
        "partition.num_clients=2", "model=lstm", "trainer.rounds=3", "callbacks.progress=null", "method=fedavg",
    ]  # fmt: skip
    lines = []
    for folder, devices in (("one", 1), ("two", 2)):
        command = [*options, f"hydra.run.dir={tmp_path / folder}", f"trainer.devices={devices}"]
        done = subprocess.run([sys.executable, "-m", "fedpurin", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        records = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        lines.append([{n: v for n, v in record.items() if not n.endswith("seconds")} for record in records])
    assert lines[0] == lines[1]
    assert lines[0][-1]["accuracy/personalized"] > 0.9
