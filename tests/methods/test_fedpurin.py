"""What FedPURIN's options need of a run, and that a closed horizon is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedpurin.config import ConfigError
from fedpurin.methods import FedPURIN
from fedpurin.space import ParameterSpace
from tests.methods.tiny import Tiny, simulate


@pytest.mark.parametrize(
    ("options", "num_participants", "message"),
    [
        ({"close_after_horizon": True}, 2, "close_after_horizon=true with 2 clients a round is not possible"),
        ({"normalise": "contributors"}, 32_768, "contributors are counted up to 32767"),
        ({"close_after_horizon": True, "fill": "global"}, 3, "needs method.fill=local"),
    ],
)
def test_what_an_option_needs_is_said_before_training(
    options: dict[str, Any], num_participants: int, message: str
) -> None:
    space = ParameterSpace(Tiny(), lambda segment: True)
    with pytest.raises(ConfigError, match=message):
        FedPURIN(**options).check(space, num_participants)
    FedPURIN(close_after_horizon=True).check(space, 3)
    FedPURIN(normalise="contributors").check(space, 32_767)


def test_past_a_horizon_that_closes_nothing_is_sent(tmp_path: Path) -> None:
    options = ["method.beta=1", "method.close_after_horizon=true", "trainer.rounds=4"]
    history = simulate(tmp_path, "method=fedpurin_recommended", *options).history
    assert [record["collaboration/closed"] for record in history] == [0.0, 1.0, 1.0, 1.0]
    sent = [record.get("bytes/up", 0) + record.get("bytes/down", 0) for record in history]
    assert sent[0] > sent[1] > 0, "round 2 still sends the masks that show that nobody collaborates"
    assert sent[2:] == [0, 0]
