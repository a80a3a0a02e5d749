"""The network equals the real MineStudio 1.1.6, stepped one frame at a time on real Minecraft frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.frames import MinecraftVideos
from tests.support.minestudio import minecraft_policy
from tests.support.network import encoder_like

pytestmark = pytest.mark.minestudio

STEPS = 300
TOLERANCE = 1e-4


@pytest.mark.parametrize(("size", "fast"), [("1x", False), ("1x", True), ("2x", True)])
def test_steps_equal_minestudio(size: str, *, fast: bool, real_frames: MinecraftVideos) -> None:
    """300 steps, 3 rows, random `first`, every parameter random: no latent differs by more than 1e-4 in float32.

    The network as it is defined, and as `load_encoder` arranges it for this machine.
    """
    policy = minecraft_policy(size, seed=1)
    encoder = encoder_like(policy, size, fast=fast)
    frames = real_frames.small(STEPS)
    rows = len(frames)
    first = np.random.default_rng(2).random((rows, STEPS)) < 0.02
    first[:, 0] = True
    assert 5 < first.sum() < 60

    stream = encoder.stream(rows)
    state = policy.initial_state(rows)
    worst = typical = 0.0
    for step in range(STEPS):
        ours = stream.step(frames[:, step], first[:, step])
        with torch.inference_mode():
            (theirs, _), state = policy(
                {"image": torch.from_numpy(frames[:, step : step + 1])},
                state,
                context={"first": torch.from_numpy(first[:, step : step + 1])},
            )
        worst = max(worst, float((ours - theirs[:, 0]).abs().max()))
        typical = max(typical, float(theirs.std()))
    print(f"{size}, {encoder.backend}: max |difference| {worst:.1e} at standard deviation {typical:.2f}")
    assert worst <= TOLERANCE
    # Guards the comparison itself: the latents must be alive and the memory must matter.
    assert typical > 0.5
    forgetful = encoder.stream(rows).step(frames[:, -1], np.ones(rows, np.bool_))
    assert float((ours - forgetful).abs().max()) > 100 * TOLERANCE
