"""data=leaf: files as LEAF writes them, read to literal values, and a run by the command alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin.config import ConfigError, DataConfig, PartitionConfig
from fedpurin.data import LabelledData, load, partition
from tests.command import run_command


def write(path: Path, samples: dict[str, list[tuple[Any, Any]]], **more: Any) -> None:
    """{user: [(x, y), …]} with the keys that LEAF has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(samples),
        "num_samples": [len(rows) for rows in samples.values()],
        "user_data": {user: {"x": [x for x, _ in rows], "y": [y for _, y in rows]} for user, rows in samples.items()},
    }
    path.write_text(json.dumps(content | more))


def read(root: Path, **options: Any) -> LabelledData:
    return load(DataConfig(name="leaf", root=str(root), **options), 0)


def test_the_next_character(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.json", {"ham": [("aab", "a"), ("aba", "b")]}, hierarchies=["HAMLET"])
    write(tmp_path / "train" / "b.json", {"puck": [("bca", "c")]})
    write(tmp_path / "test" / "a.json", {"ham": [("abz", "z")], "puck": [("ca", "a")]})
    data = read(tmp_path)
    assert data.train.inputs.tolist() == [[0, 0, 1], [0, 1, 0], [1, 2, 0]]  # type: ignore[attr-defined]
    assert data.test.inputs.tolist() == [[0, 1, 3], [2, 0, 4]]  # type: ignore[attr-defined]  # 3 unknown, 4 fills up
    assert (data.vocabulary, data.padding, data.class_names) == (5, 4, ("a", "b", "c", "z"))
    parts = partition(PartitionConfig(name="natural", num_clients=2), data, 0)
    assert [part.tolist() for part in parts.train] == [[0, 1], [2]]


def test_words_of_tweets(tmp_path: Path) -> None:
    def tweet(text: str) -> list[str]:
        return ["1467810369", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "someone", text, "training"]

    write(
        tmp_path / "all.json", {"u": [(tweet("Good film!"), 1), (tweet("bad"), 0)] * 2, "v": [(tweet("good"), 1)] * 5}
    )
    data = read(tmp_path / "all.json")
    assert (data.train.num_samples, data.test.num_samples) == (7, 2)  # a fifth of each user's, at least one
    assert data.class_names == ("0", "1")
    rows = {tuple(row) for split in (data.train, data.test) for row in split.inputs.tolist()}  # type: ignore[attr-defined]
    width = len(next(iter(rows)))
    assert width == 3
    assert len(rows) == 3
    assert data.vocabulary == 6  # good, film, !, bad; unknown; padding


def test_numbers_and_images(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"u": [([0.5, 1, 0, 0.25], 3)] * 2, "v": [([0, 0, 0, 1], 9)] * 2})
    assert read(tmp_path).train.sample_shape == (4,)
    data = read(tmp_path, image_size=2)
    assert data.train.sample_shape == (1, 2, 2)
    assert torch.equal(data.train.inputs[0], torch.tensor([[[0.5, 1.0], [0.0, 0.25]]]))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"data\.image_size=3: x of .* are 4 numbers, not \[1, 3, 3\]"):
        read(tmp_path, image_size=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no file of LEAF"),
        ('{"users": ["u"], "num_samples": [2], "user_data": {"u": {"x": ["a"], "y": ["b"]}}}', "num_samples 2"),
        ('{"users": ["u"], "num_samples": [1], "user_data": {}}', r"KeyError: 'u'"),
        ('{"users": [], "num_samples": [], "user_data": {}}', "no sample in"),
        (
            '{"users": ["u"], "num_samples": [2], "user_data": {"u": {"x": ["a", 1], "y": [0, 0]}}}',
            "some x are texts and some are not|neither texts nor numbers of one shape",
        ),
        (
            '{"users": ["u"], "num_samples": [4], "user_data": {"u": {"x": [[1], [1, 2], [1], [1, 2]], "y": [0, 0, 0, 0]}}}',
            "neither texts nor numbers of one shape",
        ),
    ],
)
def test_mistakes(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "a.json")


@pytest.mark.slow
def test_text_by_users_by_the_command_alone(tmp_path: Path) -> None:
    lines = {
        "ham": "to be or not to be that is ",
        "lear": "nothing will come of nothing ",
        "puck": "i go i go look how ",
    }
    for split, kept in (("train", (0, 1, 2, 3)), ("test", (4,))):
        write(
            tmp_path / "shakespeare" / split / "all_data.json",
            {
                who: [(text[k : k + 8], text[k + 8]) for k in range(len(text) - 8) if k % 5 in kept]
                for who, text in ((who, line * 3) for who, line in lines.items())
            },
        )
    options = [
        "data=leaf", f"data.root={tmp_path / 'shakespeare'}", "partition=natural", "partition.num_clients=3", "model=lstm",
        "trainer.rounds=3", "trainer.local_epochs=10",
    ]  # fmt: skip
    one = run_command(tmp_path / "one", *options)
    assert one[-1]["accuracy/personalized"] > 0.8
    assert one == run_command(tmp_path / "two", *options, "trainer.devices=2")
