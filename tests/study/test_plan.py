"""Studies as files: what they ask for, and what a mistake in one is told."""

from __future__ import annotations

import re

import pytest

from fedpurin.cli.reproduce import ROOT, main
from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_config
from fedpurin.study.plan import Measured, merge, parse_study, read_study, study_names
from tests.study.synthetic import TEXT, study


def test_runs_are_the_product_of_settings_variants_and_seeds() -> None:
    runs = study().runs()
    assert [(run.seed, run.cell.setting, run.cell.variant) for run in runs] == [
        (1, "easy", "a"), (1, "easy", "b"), (1, "hard", "a"), (1, "hard", "b"),
        (2, "easy", "a"), (2, "easy", "b"), (2, "hard", "a"), (2, "hard", "b"),
    ]  # fmt: skip
    assert runs[3].overrides == ("data=digits", "method=fedavg", "partition.alpha=0.1", "seed=1", "trainer.rounds=2")


def test_a_grid_is_every_combination() -> None:
    text = re.sub(
        r"settings:\n.*\n.*\n", "grid: {partition.alpha: [0.1, 1], trainer.clients_per_round: [null]}\n", TEXT
    )
    assert study(text).all_settings == {
        "alpha=0.1, clients_per_round=None": ["partition.alpha=0.1", "trainer.clients_per_round=null"],
        "alpha=1, clients_per_round=None": ["partition.alpha=1", "trainer.clients_per_round=null"],
    }


def test_the_smoke_version_is_one_row_and_one_column_of_one_seed() -> None:
    runs = study().runs(quick=True)
    assert [(run.cell.setting, run.cell.variant) for run in runs] == [("easy", "a"), ("easy", "b"), ("hard", "a")]
    assert {run.seed for run in runs} == {1}
    assert "partition.num_clients=3" in runs[0].overrides


def test_the_last_override_of_an_option_counts() -> None:
    assert merge(["b=1", "a=1"], ["b=2"]) == ("a=1", "b=2")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "configs/study/sample.yaml: titel: there is no such option"),
        ("{of: b,", "{of: c,", "configs/study/sample.yaml: c is not one of its variants: a, b"),
        ("figure: none", "curves: {all: [a, d]}", "configs/study/sample.yaml: d is not one of its variants: a, b"),
        ("[method=local]", "[local]", "configs/study/sample.yaml: local: this is not an override; write option=value"),
        ("seeds: [1, 2]", "seeds: []", "configs/study/sample.yaml: variants and seeds need at least one entry each"),
    ],
)
def test_a_mistake_in_a_study_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        study(TEXT.replace(old, new))


def test_an_unknown_study_is_one_line_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"^filed: there is no such study; did you mean field\?; studies: .*field"):
        read_study("filed")
    with pytest.raises(ConfigError, match="holds no mapping"):
        parse_study("sample", "- a")
    with pytest.raises(ConfigError, match="--jobs 0 is not possible"):
        main(["field", "--jobs", "0"])


@pytest.mark.parametrize("name", study_names())
def test_every_cell_of_the_studies_that_ship_composes(name: str) -> None:
    """The first seed of each variant and of each setting, which is where overrides come from; or the script is there."""
    given = read_study(name)
    if isinstance(given, Measured):
        script = given.measure[0] if given.measure[0] != "-m" else given.measure[1].replace(".", "/") + ".py"
        assert (ROOT / script).is_file()
        return
    for run in given.runs(quick=True):
        compose_config(run.cell.overrides)
