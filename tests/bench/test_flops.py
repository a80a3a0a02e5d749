from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.network import encoder_of, random_net
from vpt_gym.bench.flops import flops_by_stage, flops_per_frame
from vpt_gym.config import PRESETS


@pytest.mark.parametrize(("preset", "megaflops"), [("1x", 3803), ("2x", 15061), ("3x", 33774)])
def test_the_published_sizes(preset: str, megaflops: int) -> None:
    assert round(flops_per_frame(PRESETS[preset]) / 1e6) == megaflops


def test_each_stage_of_2x() -> None:
    megaflops = {stage: round(flops / 1e6, 1) for stage, flops in flops_by_stage(PRESETS["2x"]).items()}
    assert megaflops == {
        "stack0 first conv": 113.2,
        "stack0 blocks": 4831.8,
        "stack1 first conv": 2415.9,
        "stack1 blocks": 4831.8,
        "stack2 first conv": 1208.0,
        "stack2 blocks": 1208.0,
        "dense": 33.6,
        "linear": 1.0,
        "query, key, value, output": 134.2,
        "relation": 2.8,
        "attention": 4.2,
        "mlp": 268.4,
        "last": 8.4,
    }


def test_torch_counts_as_many() -> None:
    """The plain network's own operations, counted by torch as they run; 0.5% for what an implementation does differently."""
    encoder = encoder_of(random_net(PRESETS["tiny"]))
    stream = encoder.stream(1)
    with FlopCounterMode(display=False) as counter:
        stream.step(torch.zeros(1, 128, 128, 3, dtype=torch.uint8), [True])
    assert counter.get_total_flops() == pytest.approx(flops_per_frame(encoder.config), rel=0.005)
