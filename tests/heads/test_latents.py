"""KLPPO refuses an environment whose latents the heads were not made for, whenever it gets one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from tests.heads.small import LatentEnv, small_heads, small_state
from vpt_gym import VPTEncoder, load_encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy, VPTHeads
from vpt_gym.sb3 import VecVPTLatent

BUTTONS, CAMERA = 8641, 121


class FrameEnv(gym.Env[Any, Any]):
    """Black frames, and the actions that VPT's heads are for."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = gym.spaces.MultiDiscrete([BUTTONS, CAMERA])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}


def build(venv: VecEnv, heads: VPTHeads) -> KLPPO:
    options: dict[str, Any] = {"n_steps": 4, "batch_size": 4, "n_epochs": 1, "device": "cpu"}
    return KLPPO(PretrainedHeadPolicy, venv, policy_kwargs={"heads": heads}, **options)


def latents_of(encoder: VPTEncoder) -> VecEnv:
    return VecVPTLatent(DummyVecEnv([FrameEnv]), encoder)


tiny = partial(load_encoder, "random:tiny", device="cpu", precision="float32")
other = partial(load_encoder, "random:tiny?seed=1", device="cpu", precision="float32")

Way = Callable[[VecEnv, VPTHeads, VecEnv, Path], KLPPO]
"""Gives a KLPPO of these heads an environment; another is there that fits them."""


def constructed(venv: VecEnv, heads: VPTHeads, fitting: VecEnv, folder: Path) -> KLPPO:
    return build(venv, heads)


def loaded(venv: VecEnv, heads: VPTHeads, fitting: VecEnv, folder: Path) -> KLPPO:
    build(fitting, heads).save(folder / "model.zip")
    return KLPPO.load(folder / "model.zip", env=venv, device="cpu")


def set_later(venv: VecEnv, heads: VPTHeads, fitting: VecEnv, folder: Path) -> KLPPO:
    model = build(fitting, heads)
    try:
        model.set_env(venv)
    except VPTGymError:
        assert model.get_env() is fitting, "what is refused is not taken"
        raise
    return model


ways = pytest.mark.parametrize("way", [constructed, loaded, set_later])


@ways
def test_scaled_latents_are_refused_and_scaled_rewards_are_not(way: Way, tmp_path: Path) -> None:
    plain = DummyVecEnv([LatentEnv])
    for scaled in (VecNormalize(plain), VecMonitor(VecNormalize(plain)), VecNormalize(VecNormalize(plain), False)):
        with pytest.raises(VPTGymError, match="VecNormalize scales them; give it norm_obs=False"):
            way(scaled, small_heads(), plain, tmp_path)
    way(VecNormalize(plain, norm_obs=False), small_heads(), plain, tmp_path).learn(8)


@ways
@pytest.mark.parametrize("wrong", [other, partial(tiny, layer="block1")])
def test_latents_of_another_encoder_are_refused(wrong: Callable[[], VPTEncoder], way: Way, tmp_path: Path) -> None:
    """Other weights, or another layer of the same, which has the same length."""
    right, encoder = tiny(), wrong()
    assert encoder.latent_size == right.latent_size
    for wrapped in (lambda venv: venv, lambda venv: VecMonitor(VecNormalize(venv, norm_obs=False))):
        with pytest.raises(VPTGymError, match="KLPPO: the heads read other latents than ") as caught:
            way(wrapped(latents_of(encoder)), right.heads, latents_of(right), tmp_path)
        assert repr(encoder) in str(caught.value)
        assert "wrap the environment with that encoder, or begin a model with this one's heads" in str(caught.value)


@ways
def test_latents_of_the_same_encoder_are_taken(way: Way, tmp_path: Path) -> None:
    """With whatever temperature."""
    for heads in (tiny().heads, tiny().heads.with_temperature(1)):
        way(latents_of(tiny()), heads, latents_of(tiny()), tmp_path)


def test_a_finetuned_model_stays_with_its_encoder(tmp_path: Path) -> None:
    model = build(latents_of(tiny()), tiny().heads)
    model.learn(4)
    for generation in ("first", "second"):  # what a loaded model saves is protected no less
        model.save(tmp_path / f"{generation}.zip")
        with pytest.raises(VPTGymError, match="the heads read other latents than"):
            KLPPO.load(tmp_path / f"{generation}.zip", env=latents_of(other()), device="cpu")
        model = KLPPO.load(tmp_path / f"{generation}.zip", env=latents_of(tiny()), device="cpu")
        model.learn(4)


@ways
def test_what_nobody_said_is_not_held_against_it(way: Way, tmp_path: Path) -> None:
    heads = other().heads
    state = {name: heads.tensor(name) for name in small_state()}
    fitting = latents_of(other())
    way(latents_of(tiny()), VPTHeads.from_state_dict(state), fitting, tmp_path)
    said = VPTHeads.from_state_dict(state, latents=other().fingerprint)
    with pytest.raises(VPTGymError, match="other latents"):
        way(latents_of(tiny()), said, fitting, tmp_path)


def test_plain_ppo_does_not_look() -> None:
    """As the policy's docstring warns: it is told spaces, no environment."""
    PPO(PretrainedHeadPolicy, latents_of(other()), policy_kwargs={"heads": tiny().heads}, n_steps=4, batch_size=4)
