"""The paper's experiments, option by option, as the published scripts have them."""

from __future__ import annotations

import pytest

from fedpurin.run.compose import compose_config


@pytest.mark.parametrize(
    ("experiment", "fill", "order", "beta"),
    [
        ("paper_cifar10", "global", "first", 100),
        ("paper_fashion_mnist", "local", "second", 100),
        ("paper_cifar100", "local", "second", 170),
    ],
)
def test_fill_order_and_horizon(experiment: str, fill: str, order: str, beta: int) -> None:
    config, _ = compose_config([f"experiment={experiment}"])
    assert (config.method["fill"], config.scores.order, config.method["beta"]) == (fill, order, beta)


@pytest.mark.parametrize(("overrides", "expected"), [([], (1.0, 1.0)), (["experiment=paper_cifar10"], (0.5, 3.0))])
def test_self_distillation_is_the_authors_or_the_comparisons(
    overrides: list[str], expected: tuple[float, float]
) -> None:
    method = compose_config([*overrides, "method=pfedsd"])[0].method
    assert (method["lam"], method["temperature"]) == expected


def test_published_defaults_of_the_rivals() -> None:
    assert compose_config(["method=fedprox"])[0].method["mu"] == 0.01
    fedcac = compose_config(["method=fedcac"])[0]
    assert (fedcac.method["share_norm"], fedcac.scores.cutoff) == (True, 1e-20)


def test_inputs_and_augmentation() -> None:
    def options(experiment: str) -> tuple[str, bool, float, int]:
        data = compose_config([f"experiment={experiment}"])[0].data
        return data.normalise, data.flip, data.rotation, data.crop_padding

    assert options("paper_cifar10") == options("paper_fashion_mnist") == ("unit", False, 0.0, 0)
    assert options("paper_cifar100") == ("standardise", True, 15.0, 4)
