"""LatentResampler: what lies before an episode is not seen, and what one latent does not tell is learned."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from vpt_gym.errors import VPTGymError
from vpt_gym.heads import LatentResampler
from vpt_gym.latents import latent_box

SIZE, STACK = 6, 4


class Remembering(gym.Env[Any, Any]):
    """The first latent of an episode says what the right action is at its third and last; the latents between are noise."""

    observation_space = latent_box(SIZE)
    action_space = gym.spaces.Discrete(2)

    def _observe(self) -> Any:
        latent = self.np_random.normal(size=SIZE).astype(np.float32)
        latent[0] = (2.0 if self.wanted else -2.0) if self.age == 0 else 0.0
        latent[1] = float(self.age)
        return latent

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age, self.wanted = 0, int(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        over = self.age == 2
        reward = float(action == self.wanted) if over else 0.0
        self.age += 1
        return self._observe(), reward, over, False, {}


def _mean_return(stack: int) -> float:
    venv: Any = DummyVecEnv([Remembering] * 8)
    venv.seed(0)
    kwargs: dict[str, Any] = {
        "features_extractor_class": LatentResampler,
        "features_extractor_kwargs": {"latent_size": SIZE, "width": 32, "queries": 2, "heads": 2},
        "net_arch": [],
    }
    venv = VecFrameStack(venv, stack)
    model = PPO(
        "MlpPolicy",
        venv,
        n_steps=48,
        batch_size=96,
        n_epochs=6,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        policy_kwargs=kwargs,
    )
    model.learn(6000)
    return float(np.mean([episode["r"] for episode in _episodes(model, venv)]))


def _episodes(model: Any, venv: Any) -> list[dict[str, float]]:
    observations = venv.reset()
    found = []
    for _ in range(90):
        actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, dones, _ = venv.step(actions)
        found += [{"r": float(reward)} for reward in rewards[dones]]
    return found


def test_it_learns_what_one_latent_does_not_tell() -> None:
    assert _mean_return(1) < 0.7
    assert _mean_return(STACK) > 0.95


def _extractor(**options: Any) -> LatentResampler:
    torch.manual_seed(0)
    return LatentResampler(latent_box(SIZE * STACK), SIZE, width=16, heads=2, queries=3, **options).eval()


@pytest.mark.parametrize("layers", [1, 3])
def test_padding_is_not_seen(layers: int) -> None:
    extractor = _extractor(layers=layers, blocks=2)
    latents = torch.randn(5, STACK, SIZE)
    latents[0, :3] = 0
    latents[1, :1] = 0
    features = extractor(latents.flatten(1))
    assert features.shape == (5, 3 * 16)
    # Were the zeros seen, another mark of their age would change what comes out.
    with torch.no_grad():
        extractor.age[:1] += 5.0
    changed = (extractor(latents.flatten(1)) - features).abs().amax(dim=1)
    assert changed[0] == 0
    assert changed[1] == 0
    assert (changed[2:] > 1e-3).all()


def test_an_episode_without_a_past_gives_finite_features() -> None:
    extractor = _extractor()
    features = extractor(torch.zeros(2, STACK * SIZE))
    assert features.isfinite().all()


def test_order_matters() -> None:
    extractor = _extractor()
    latents = torch.randn(1, STACK, SIZE)
    assert (extractor(latents.flatten(1)) - extractor(latents.flip(1).flatten(1))).abs().max() > 1e-4


def test_it_is_saved_and_loaded(tmp_path: Any) -> None:
    venv = VecFrameStack(DummyVecEnv([Remembering]), STACK)
    kwargs: dict[str, Any] = {
        "features_extractor_class": LatentResampler,
        "features_extractor_kwargs": {"latent_size": SIZE},
    }
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", env=venv, device="cpu")
    observations = np.random.default_rng(0).normal(size=(20, STACK * SIZE)).astype(np.float32)
    with torch.no_grad():
        one, two = (each.policy.predict_values(torch.from_numpy(observations)) for each in (model, again))
    assert one.equal(two)


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (latent_box(7), {"latent_size": 6}),
        (latent_box(12), {"latent_size": 6, "layers": 4}),
        (latent_box(12), {"latent_size": 6, "width": 10, "heads": 4}),
        (gym.spaces.Discrete(3), {"latent_size": 6}),
        (latent_box(12), {"latent_size": 0}),
    ],
)
def test_refused(space: Any, options: dict[str, Any]) -> None:
    with pytest.raises((VPTGymError), match="LatentResampler"):
        LatentResampler(space, **options)
