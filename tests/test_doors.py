"""What users bring by `_target_` or from Python: the pages' examples run, and mistakes end with a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpurin import simulate
from fedpurin.config import Config, ConfigError, DataConfig, PartitionConfig, ProgramConfig, ScoresConfig
from fedpurin.data import LabelledData, from_datasets, load, partition
from fedpurin.run.compose import compose_config
from fedpurin.selection import Selector, own_scores
from fedpurin.space import Layout, Segment

DOCS = Path(__file__).parent.parent / "docs"
SMALL = ["trainer.accelerator=cpu", "trainer.local_epochs=1", "trainer.batch_size=32", "callbacks.progress=null"]
MOONS = ["data=custom", "data._target_=my_data.two_moons", "+data.noise=0.2", "model=mlp"]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The modules that the pages have their reader write, where Python finds them."""
    data, deal, program = (blocks(f"add-a-{what}.md") for what in ("data-set", "partition", "program"))
    (tmp_path / "my_data.py").write_text(data[0])
    (tmp_path / "my_deal.py").write_text(deal[0])
    (tmp_path / "my_program.py").write_text(program[0] + program[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["add-a-data-set.md", "add-a-partition.md", "add-a-program.md"])
def test_a_pages_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    real = simulate

    def quick(overrides: list[str], **parts: Any) -> Any:
        return real([*overrides, *SMALL, "trainer.rounds=1"], **parts)

    monkeypatch.setattr("fedpurin.simulate", quick)
    exec("".join(blocks(page)), space)
    assert len(space["result"].history) == 1
    summary = json.loads(next(tmp_path.glob("runs/*/summary.json")).read_text())
    assert summary["status"] == "finished"


def test_the_pages_commands_give_the_same_as_python(modules: Path) -> None:
    overrides = [*SMALL, "trainer.rounds=1", "partition.num_clients=4", "program.tau=0.3"]
    doors = [
        *MOONS, "partition=custom", "partition._target_=my_deal.shards", "+partition.each=3", "program=custom",
        "program._target_=my_program.whole_tensors", "scores._target_=my_program.squared_change",
    ]  # fmt: skip
    named = simulate([*doors, *overrides], run_dir=modules / "a")
    import my_data  # type: ignore[import-not-found]
    import my_deal  # type: ignore[import-not-found]
    import my_program  # type: ignore[import-not-found]

    brought = simulate(
        ["model=mlp", *overrides],
        data=lambda generator: my_data.two_moons(generator, noise=0.2),
        partition=lambda labels, num_clients, generator: my_deal.shards(labels, num_clients, generator, each=3),
        program=my_program.whole_tensors, scores=my_program.squared_change, run_dir=modules / "b",
    )  # fmt: skip
    clocks = ("seconds",)
    one, other = ({k: v for k, v in run.history[-1].items() if not k.endswith(clocks)} for run in (named, brought))
    assert one == other
    assert 0 < one["mask/density"] <= 0.3
    assert named.federation.config.to_mapping()["partition"]["each"] == 3
    assert brought.federation.config.to_mapping()["program"]["_target_"] == "my_program.whole_tensors"


def test_a_section_with_a_target_comes_back_from_its_mapping(modules: Path) -> None:
    config, _ = compose_config(MOONS)
    assert (config.data.name, config.data.own["noise"]) == ("two_moons", 0.2)
    assert Config.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config


def test_a_yaml_of_the_users_is_a_choice(modules: Path) -> None:
    (modules / "conf" / "data").mkdir(parents=True)
    (modules / "conf" / "data" / "moons.yaml").write_text("_target_: my_data.two_moons\nnoise: 0.2\n")
    config, _ = compose_config([f"hydra.searchpath=[file://{modules}/conf]", "data=moons"])
    assert load(config.data, 0).train.inputs.shape == (600, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data._target_=my_data.two_moons"], "data._target_ belongs to data=custom: choose it as well"),
        (["data=custom"], "data._target_: this option needs a value"),
        (["partition.name=custom"], "partition=custom and a partition._target_ belong together"),
        (["data.own={a: 1}"], "data.own: there is no such option"),
    ],
)
def test_mistakes_in_the_choice(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose_config([override.replace("data.own", "+data.own") for override in overrides])


def data_of(function: Any, **options: Any) -> LabelledData:
    return load(DataConfig(name="x", own={"_target_": function, **options}), 0)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("my_data.three_moons", {}, "data._target_=my_data.three_moons cannot be found"),
        (
            "my_data.two_moons",
            {"nois": 1},
            "data.nois: my_data.two_moons has no such argument; it has generator, samples",
        ),
        (lambda size: None, {}, r"needs size: .* give any other argument as \+data.size=..."),
        (lambda: [1, 2, 3], {}, "returned a list of 3; LabelledData or"),
        (lambda: (np.zeros((4, 2)), np.zeros(4)), {}, r"train is a ndarray; a torch data set, a list of samples, or"),
        (lambda: ([1.5, 2.5], [1.5]), {}, r"train is a list of 2; a torch data set, a list of samples, or \(inputs"),
    ],
)
def test_mistakes_in_a_data_function(modules: Path, function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(function, **options)


def test_a_list_of_samples_is_a_data_set() -> None:
    samples = [{"x": [float(n), 1.0], "label": n % 2} for n in range(4)]
    data = data_of(lambda: (samples, samples[:2]))
    assert (data.train.num_samples, data.test.num_samples, data.class_names) == (4, 2, ("0", "1"))
    pairs = data_of(lambda: ([([0.5, 1.0], 0), ([0.5, 2.0], 1)], [([0.0, 1.0], 0)]))
    assert pairs.train.inputs.tolist() == [[0.5, 1.0], [0.5, 2.0]]  # type: ignore[attr-defined]


def eight() -> LabelledData:
    pairs = [(torch.ones(2) * n, n % 2) for n in range(8)]
    return from_datasets(pairs, pairs[:4])


def dealt(function: Callable[..., Any], **options: Any) -> list[list[int]]:
    parts = partition(PartitionConfig(name="custom", num_clients=2, own={"_target_": function}, **options), eight(), 0)
    return [part.tolist() for part in (*parts.train, *parts.test)]


def test_a_partition_is_called_for_both_pools_with_the_same_draws() -> None:
    drawn = []

    def halves(labels: Any, num_clients: int, generator: np.random.Generator, split: str) -> list[Any]:
        drawn.append((split, len(labels), generator.integers(1000)))
        return np.array_split(np.arange(len(labels))[::-1], num_clients)

    assert dealt(halves) == [[4, 5, 6, 7], [0, 1, 2, 3], [2, 3], [0, 1]]
    assert [(split, count) for split, count, _ in drawn] == [("train", 8), ("test", 4)]
    assert drawn[0][2] == drawn[1][2]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1]], "dealt to 1 clients; partition.num_clients=2"),
        ([[0, 1], []], "client 1 has no train sample"),
        ([[0, 1], [1]], "train sample 1 belongs to 2 clients; set partition.disjoint=false"),
        ([[0, 1], [8]], "client 1's train indices must be different numbers from 0 to 7"),
        ([[0, 0], [1]], "client 0's train indices must be different numbers"),
        ([[0.5], [1]], "client 0 has float64 of 1 dims"),
        (7, "returned a int; it must be a list of indices a client"),
    ],
)
def test_mistakes_in_a_partition(parts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dealt(lambda: parts)
    if "disjoint" in message:
        assert dealt(lambda: parts, disjoint=False)[:2] == [[0, 1], [1]]


LAYOUT = Layout((Segment("a", 0, 3, (3,)), Segment("b", 64, 2, (2,))))
SCORES = torch.zeros(LAYOUT.length)
SCORES[[0, 1, 64, 65]] = torch.tensor([1.0, 2.0, 4.0, 8.0])
SCORES[10] = 100.0  # padding, which no mask may hold


def selected(function: Callable[..., Any]) -> Any:
    return Selector(LAYOUT, ProgramConfig(name="custom", own={"_target_": function})).solve(SCORES)


def test_a_programs_mask_is_certified_by_its_bound() -> None:
    selection = selected(lambda scores: (torch.ones(LAYOUT.length, dtype=torch.bool), 16))
    assert selection.mask.nonzero().flatten().tolist() == [0, 1, 64, 65]
    certificate = selection.certificate
    assert (certificate.objective, certificate.upper_bound, certificate.gap) == (15.0, 16.0, 1 / 16)
    assert (certificate.status, certificate.num_selected, certificate.num_null) == ("within_bound", 4, 1)
    alone = selected(lambda scores: scores > 3).certificate
    assert (alone.status, alone.objective, alone.upper_bound, alone.gap) == ("uncertified", 12.0, 15.0, 0.2)
    assert selected(lambda scores: (scores > 0, 15.0)).certificate.status == "optimal"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda scores: scores, r"returned torch.float32 of \(128,\); a bool tensor of \(128,\)"),
        (lambda scores: (scores > 0, 14.0), "its bound 14 is below the 15 that its own mask reaches"),
    ],
)
def test_mistakes_in_a_program(answer: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        selected(answer)


def scored(function: Callable[..., Any]) -> torch.Tensor:
    config = ScoresConfig(cutoff=0.5, own={"_target_": function})
    one = torch.ones(LAYOUT.length)
    return own_scores(3 * one, one, 2 * one, LAYOUT, config, torch.Generator())


def test_scores_of_the_users_see_the_fit_and_lose_their_nulls() -> None:
    assert scored(lambda parameters, start, gradient: (parameters - start) * gradient)[0] == 4.0
    assert scored(lambda parameters, layout: parameters / 6).max() == 0.0
    with pytest.raises(
        ConfigError, match=r"returned torch.float64 of \(128,\); a float32 tensor of \(128,\) is needed"
    ):
        scored(lambda parameters: parameters.double())
    with pytest.raises(ConfigError, match="returned -3; scores are not negative"):
        scored(lambda parameters: -parameters)


def test_a_function_that_the_user_brings_must_be_one() -> None:
    with pytest.raises(ConfigError, match="simulate was given program=int, which cannot be called"):
        simulate(program=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="data as well as train and test"):
        simulate(data=eight(), train=[])  # type: ignore[arg-type]
