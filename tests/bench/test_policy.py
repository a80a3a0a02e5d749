from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.network import encoder_of, random_net
from vpt_gym.bench.pictures import Pictures
from vpt_gym.bench.policy import ExtractorOfFrames, compare_iterations
from vpt_gym.bench.prepared import PreparedVecEnv
from vpt_gym.running.stopping import Stopped
from vpt_gym.sb3 import VecVPTLatent

NOISE = Pictures(
    tuple(np.random.default_rng(0).integers(0, 256, (2, 9, 128, 128, 3), dtype=np.uint8)), "x", synthetic=True
)


def test_the_extractor_gives_the_latent_of_each_frame_alone() -> None:
    encoder = encoder_of(random_net())
    extractor = ExtractorOfFrames(gym.spaces.Box(0, 255, (3, 128, 128), np.uint8), encoder)
    frames = NOISE.frames(2, 3)
    wanted = encoder.encode(frames[:, None])[:, 0]
    as_sb3_hands_over = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    for _ in range(2):
        assert torch.allclose(extractor(as_sb3_hands_over), wanted, atol=1e-5)


def test_a_ppo_iteration_of_each_way_and_the_real_buffers() -> None:
    shares: list[float] = []
    found = compare_iterations(encoder_of(random_net()), NOISE, n_steps=2, progress=shares.append)
    assert [one["way"] for one in found["iterations"]] == ["latents", "extractor", "latents"]
    for one in found["iterations"]:
        assert one["seconds"] == pytest.approx(one["rollout_seconds"] + one["optimisation_seconds"])
    assert found["minibatch"] == 16
    assert found["buffer_bytes"]["latents"]["observations"] == 2 * 8 * 64 * 4
    # SB3 keeps the observation's dtype from 2.7.1 on, and makes float32 of it before.
    assert found["buffer_bytes"]["extractor"]["observations"] in {2 * 8 * 49152, 2 * 8 * 49152 * 4}
    assert found["observations_smaller"] in {192.0, 768.0}
    assert shares[-1] == 1


def test_a_stop_reaches_into_the_optimisation() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 28:
            raise Stopped

    with pytest.raises(Stopped) as stopped:
        compare_iterations(encoder_of(random_net()), NOISE, n_steps=2, check=check)
    assert "evaluate_actions" in [entry.name for entry in stopped.traceback]


def test_prepared_environments_end_one_after_the_other() -> None:
    venv = VecVPTLatent(PreparedVecEnv(4, NOISE, episode=8), encoder_of(random_net()))
    venv.reset()
    ends = []
    for _ in range(16):
        latents, rewards, dones, infos = venv.step(np.zeros(4, np.int64))
        assert latents.shape == (4, 64)
        assert rewards.shape == (4,)
        ends.append(np.flatnonzero(dones).tolist())
        assert all(infos[row]["terminal_observation"].shape == (64,) for row in ends[-1])
    assert ends[:8] == [[], [3], [], [2], [], [1], [], [0]]
    assert ends[8:] == ends[:8]
