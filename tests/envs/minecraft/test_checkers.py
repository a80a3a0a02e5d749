"""Both libraries' own checkers, without a single warning: warnings are errors in these tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

import vpt_gym
from tests.support.engine import MinecraftEngine


def test_gymnasium_s_checker(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(render_mode="rgb_array")
    check_gymnasium(env.unwrapped)
    env.close()
    assert minecraft_engine.processes() == []


def test_stable_baselines3_s_checker(make: Any) -> None:
    env = make(render_mode="rgb_array")
    assert isinstance(env.action_space, gym.spaces.MultiDiscrete)
    check_sb3(env)


def test_both_checkers_on_latents(make: Any) -> None:
    env = vpt_gym.VPTLatentObservation(make(), "random:tiny")
    check_sb3(env)
    assert env.observation_space == env.encoder.latent_space
