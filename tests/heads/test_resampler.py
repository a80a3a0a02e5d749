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


def _accuracy(stack: int) -> float:
    """On fresh latents, after training to say what the latent of three frames before the last showed."""
    torch.manual_seed(0)
    space = latent_box(SIZE * stack)
    extractor = LatentResampler(space, SIZE, width=32, queries=2, heads=2)
    head = torch.nn.Linear(extractor.features_dim, 2)
    optimizer = torch.optim.Adam([*extractor.parameters(), *head.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(1)

    def sample(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        latents = torch.randn(count, STACK, SIZE, generator=generator)
        latents[: count // 4, 0] = 0  # the episode had not begun
        answers = (latents[:, 0, 0] > 0).long()
        return latents[:, STACK - stack :].flatten(1), answers

    for _ in range(400):
        observations, answers = sample(128)
        loss = torch.nn.functional.cross_entropy(head(extractor(observations)), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        observations, answers = sample(2000)
        return float((head(extractor(observations)).argmax(dim=1) == answers).float().mean())


def test_it_learns_what_one_latent_does_not_tell() -> None:
    assert _accuracy(1) < 0.7
    assert _accuracy(STACK) > 0.95


class Noise(gym.Env[Any, Any]):
    """Latents at random, for episodes of five steps."""

    observation_space = latent_box(SIZE)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self.np_random.normal(size=SIZE).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return self.np_random.normal(size=SIZE).astype(np.float32), float(action), self.age == 5, False, {}


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
        extractor.age[:1] += torch.randn(16)
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
    venv = VecFrameStack(DummyVecEnv([Noise]), STACK)
    kwargs: dict[str, Any] = {
        "features_extractor_class": LatentResampler,
        "features_extractor_kwargs": {"latent_size": SIZE},
    }
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
    model.learn(16)
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
