"""ScaledLatents: VecNormalize's scaling, but part of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.heads.small import LatentEnv
from vpt_gym.errors import VPTGymError
from vpt_gym.heads import ScaledLatents
from vpt_gym.latents import latent_box

SIZE = 8


def test_it_scales_as_vec_normalize_does() -> None:
    venv = VecNormalize(DummyVecEnv([LatentEnv]))
    rng = np.random.default_rng(0)
    venv.obs_rms.mean, venv.obs_rms.var = rng.normal(size=SIZE), rng.random(SIZE) + 0.01
    venv.obs_rms.var[0] = 1e-12
    extractor = ScaledLatents(latent_box(SIZE))
    latents = (3 * rng.normal(size=(20, SIZE))).astype(np.float32)
    torch.testing.assert_close(extractor(torch.from_numpy(latents)), torch.from_numpy(latents.clip(-10, 10)))
    extractor.fit(torch.from_numpy(venv.obs_rms.mean), torch.from_numpy(venv.obs_rms.var))
    wanted = torch.from_numpy(venv.normalize_obs(latents))
    torch.testing.assert_close(extractor(torch.from_numpy(latents)), wanted, atol=1e-5, rtol=1e-5)


def test_the_statistics_are_saved_with_the_policy(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"features_extractor_class": ScaledLatents}
    model = PPO("MlpPolicy", DummyVecEnv([LatentEnv]), n_steps=16, batch_size=16, policy_kwargs=kwargs, device="cpu")
    model.policy.features_extractor.fit(torch.arange(8.0), torch.arange(8.0) + 1)
    model.learn(16)
    model.save(tmp_path / "model.zip")
    again: Any = PPO.load(tmp_path / "model.zip", device="cpu").policy.features_extractor
    assert bool(again.fitted)
    assert again.mean.equal(torch.arange(8.0)), "training changes no statistics"


def test_what_stands_beside_the_latent_is_left_as_it_is() -> None:
    space = gym.spaces.Dict({"goal": latent_box(3), "latent": latent_box(SIZE)})
    extractor = ScaledLatents(space)
    assert extractor.features_dim == SIZE + 3
    extractor.fit(torch.full((SIZE,), 2.0), torch.full((SIZE,), 4.0))
    seen = {"goal": torch.full((5, 3), 6.0), "latent": torch.full((5, SIZE), 6.0)}
    wanted = torch.cat([torch.full((5, SIZE), 2.0), torch.full((5, 3), 6.0)], dim=1)
    torch.testing.assert_close(extractor(seen), wanted)


def test_refused() -> None:
    for space in (gym.spaces.Discrete(3), gym.spaces.Dict({"goal": latent_box(3)})):
        with pytest.raises(VPTGymError, match="a Box"):
            ScaledLatents(space)
