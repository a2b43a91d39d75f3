"""What options change is marked beside them once, and every list is made from the marks."""

from __future__ import annotations

from fedpurin.config import Config, DataConfig, TrainerConfig
from fedpurin.report.relevance import IGNORED
from fedpurin.run.compose import compose_config
from fedpurin.run.effects import Situation, why_without_effect
from fedpurin.run.reader import flatten
from fedpurin.run.resume import FREE, is_free
from fedpurin.science import Changes, ReadIf, covers, marked, read_only_if


def test_marks_are_found_in_sections_unions_and_mappings() -> None:
    assert marked(DataConfig, Changes.NOTHING) == ("root", "download")
    assert set(marked(TrainerConfig, Changes.BITS)) == {"executor", "channels_last", "cohort", "threads"}
    assert set(marked(Config, Changes.RECORD)) == {
        "network", "callbacks", "trainer.evaluate_every", "trainer.monitor", "trainer.monitor_mode",
    }  # fmt: skip
    assert "callbacks.progress" in marked(Config, Changes.NOTHING)
    assert read_only_if(Config)["program.budget"] == ReadIf("program.name", ("budget",))
    assert read_only_if(Config)["partition.volume.floor"].values == ("lognormal", "powerlaw")


def test_a_run_may_go_on_under_what_changes_no_bit() -> None:
    assert set(FREE) == {
        "trainer.rounds", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "exchange.bucket_mib",
        "exchange.timeout_seconds", "program.overlap", "data.root", "data.download", "clients", "checkpoint",
        "callbacks.progress",        "callbacks.mask_statistics", "logger", "resume", "name", "tags", "choices",
    }  # fmt: skip
    assert is_free("checkpoint.every")
    assert not is_free("trainer.threads")  # other bits
    assert not is_free("callbacks.mine.strength")


def test_runs_that_differ_in_their_last_bits_alone_are_one_group_of_the_report() -> None:
    ignored = (
        "trainer.threads",
        "trainer.cohort",
        "seed",
        "network.up_mbps",
        "callbacks.mine",
        "logger.csv",
        "trainer.devices",
    )
    assert all(covers(IGNORED, option) for option in ignored)
    compared = (
        "trainer.rounds",
        "trainer.precision",
        "trainer.local_epochs",
        "scores.source",
        "program.tau",
        "data.flip",
    )
    assert not any(covers(IGNORED, option) for option in compared)
    assert not covers(("checkpoint",), "checkpoints")


def test_options_that_marks_name_are_there() -> None:
    known = flatten(compose_config([])[0].to_mapping()).keys()
    for option, mark in read_only_if(Config).items():
        assert {option, mark.option} <= known


def test_the_concentration_is_read_by_both_dirichlet_partitions() -> None:
    def situation(partition: str) -> Situation:
        return Situation(
            "fedavg", "digits", "layerwise", partition, "equal", "gradient", "second", 1, "auto", "device", False
        )

    assert why_without_effect("partition.alpha", situation("dirichlet_by_class")) == ""
    assert why_without_effect("partition.alpha", situation("custom")) == ""
    assert "does not read it (dirichlet and dirichlet_by_class do)" in why_without_effect(
        "partition.alpha", situation("iid")
    )
