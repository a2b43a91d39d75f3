import pytest
import torch

from fedpurin.config import ScoresConfig
from fedpurin.seeding import torch_generator
from fedpurin.selection import perturbation_scores
from fedpurin.selection.scores import _score_torch
from tests.selection import naive

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def test_both_orders_by_hand() -> None:
    # g w = 0.5 · 2 = 1: |−1 + ½| = 0.5;   g w = −1: |1 + ½| = 1.5;   g w = 2: |−2 + 2| = 0, which is null
    weights, gradient = torch.tensor([2.0, -2.0, 4.0]), torch.tensor([0.5, 0.5, 0.5])
    assert perturbation_scores(weights, gradient, ScoresConfig()).tolist() == [0.5, 1.5, 0.0]
    assert perturbation_scores(weights, gradient, ScoresConfig(order="first")).tolist() == [1.0, 1.0, 2.0]


def test_cutoff_is_null_at_equality() -> None:
    weights, gradient = torch.ones(3), torch.tensor([0.25, 0.5, 0.75])
    scores = perturbation_scores(weights, gradient, ScoresConfig(order="first", cutoff=0.5))
    assert scores.tolist() == [0.0, 0.0, 0.75]


def test_gradient_underflows_in_float16_but_an_update_does_not() -> None:
    weights, direction = torch.ones(1), torch.tensor([2.0**-26])
    gradient = ScoresConfig(order="first", cutoff=0.0)
    update = ScoresConfig(order="first", cutoff=0.0, source="update")
    assert perturbation_scores(weights, direction, gradient).item() == 0.0
    assert perturbation_scores(weights, direction, update).item() == 2.0**-26


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_equals_the_naive_formula_bit_for_bit(order: str, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 1_200_003  # more than one chunk, and a tail
    weights = torch.randn(size, generator=generator) * torch.exp(3 * torch.randn(size, generator=generator))
    gradient = torch.randn(size, generator=generator) * torch.exp(5 * torch.randn(size, generator=generator) - 8)
    # float16's borders: overflow, largest, smallest subnormal, halfway to it, just above, and a signed zero
    edges = [65519.996, -65520.0, 65504.0, 2**-24, 2**-25, 2**-25 * 1.001, -0.0, 2**-14, 2**-14 * 0.9999]
    gradient[: len(edges)] = torch.tensor(edges)
    config = ScoresConfig(order=order, gradient_dtype=dtype)  # type: ignore[arg-type]
    expected = naive.scores(weights, gradient, order, config.cutoff, DTYPES[dtype])
    before = gradient.clone()
    for scores in (
        perturbation_scores(weights, gradient, config),
        _score_torch(weights, gradient, config, dtype),
    ):
        assert torch.equal(scores.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(gradient, before)


def test_nan_survives_for_the_selector_to_name() -> None:
    assert perturbation_scores(torch.ones(1), torch.tensor([torch.nan]), ScoresConfig()).isnan().all()


@pytest.mark.usefixtures("unchecked")
def test_vectors_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        perturbation_scores(torch.ones(3), torch.ones(2), ScoresConfig())
    with pytest.raises(ValueError, match="float64"):
        perturbation_scores(torch.ones(2), torch.ones(2, dtype=torch.float64), ScoresConfig())


def test_controls_by_hand() -> None:
    weights, update = torch.tensor([2.0, -3.0, 0.25]), torch.tensor([-0.5, 0.125, 1.0])
    magnitude = ScoresConfig(order="magnitude", cutoff=0.25)
    assert perturbation_scores(weights, update, magnitude).tolist() == [2.0, 3.0, 0.0]
    moved = ScoresConfig(order="update", cutoff=0.125)
    assert perturbation_scores(weights, update, moved).tolist() == [0.5, 0.0, 1.0]
    assert weights.tolist() == [2.0, -3.0, 0.25]


def test_random_scores_belong_to_seed_round_and_client() -> None:
    config, weights = ScoresConfig(order="random"), torch.zeros(10_000)

    def draw(seed: int, round_: int, client: int) -> torch.Tensor:
        stream = torch_generator(seed, "scores/random", round_number=round_, client=client)
        return perturbation_scores(weights, weights, config, stream)

    first = draw(0, 1, 2)
    assert torch.equal(first, draw(0, 1, 2))
    assert not any(torch.equal(first, draw(*other)) for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3)])
    assert abs(first.mean().item() - 0.5) < 0.015  # five standard errors
    assert 0.0 <= first.min().item() < first.max().item() < 1.0
    half = perturbation_scores(weights, weights, ScoresConfig(order="random", cutoff=0.5), torch_generator(0, "x"))
    assert abs((half == 0).float().mean().item() - 0.5) < 0.025
    with pytest.raises(ValueError, match=r"scores.order=random draws from a generator"):
        perturbation_scores(weights, weights, config)
