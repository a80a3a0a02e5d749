"""NaN and infinity end a run in a sentence, with the status `failed` and the last sound model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN, PPO

from tests.training.test_train import config
from vpt_gym.training.soundness import NonFiniteRunError
from vpt_gym.training.train import train

DQN_OPTIONS: dict[str, Any] = {"algo": "dqn", "hyperparameters": {"learning_starts": 8}}


def check_failed(folder: Path, error: NonFiniteRunError, algorithm: Any) -> dict[str, Any]:
    """The folder says what the error says, and holds a model that is finite."""
    written: dict[str, Any] = json.loads((folder / "config.json").read_text())
    assert written["status"] == "failed"
    assert written["error"].startswith("NonFiniteRunError: tests.training.pixel_env:Light-v0: ")
    model = algorithm.load(folder / "model.zip", device="cpu")
    assert all(bool(p.isfinite().all()) for p in model.policy.parameters())
    assert model.num_timesteps == written["steps"]
    assert f"The model after {written['steps']:,} steps is saved in {folder}." in str(error)
    return written


@pytest.mark.parametrize("value", ["nan", "-inf", "1e300"])
@pytest.mark.parametrize(("algorithm", "options"), [(PPO, {}), (DQN, DQN_OPTIONS)], ids=["ppo", "dqn"])
def test_a_reward(algorithm: Any, options: dict[str, Any], value: str, tmp_path: Path) -> None:
    # The random policy's two episodes of eight steps play first, so what is odd comes in training.
    odd = {"odd": "reward", "odd_from": 5, "odd_value": value}
    with pytest.raises(
        NonFiniteRunError, match=r"Light-v0: the reward of environment 0 is not finite .* at step 10 of"
    ):
        train(config(env_kwargs=odd, eval_episodes=2, **options), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("normalize", [True, False])
def test_an_observation_beside_the_latent(normalize: bool, tmp_path: Path) -> None:
    odd = {"as_dict": True, "odd": "compass", "odd_from": 3}
    with pytest.raises(
        NonFiniteRunError, match=r"the observation\['compass'\] of environment 0 is not finite at step 6 of"
    ) as e:
        train(config(env_kwargs=odd, keep=("compass",), normalize=normalize), tmp_path)
    check_failed(tmp_path, e.value, PPO)


def test_a_last_observation(tmp_path: Path) -> None:
    odd = {"as_dict": True, "odd": "compass", "odd_from": 8}  # seen at the end of an episode alone
    with pytest.raises(NonFiniteRunError, match=r"'compass'\] of environment 0 is not finite at step 16 of"):
        train(config(env_kwargs=odd, keep=("compass",)), tmp_path)


class Breaking(PPO):
    """PPO whose second update leaves a parameter that is no number."""

    def train(self) -> None:
        super().train()
        if self.num_timesteps >= 128:
            with torch.no_grad():
                self.policy.value_net.bias.fill_(float("nan"))


class BreakingDQN(DQN):
    """The same for an algorithm that goes on with such parameters."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        super().train(gradient_steps, batch_size)
        if self.num_timesteps >= 128:
            with torch.no_grad():
                next(self.policy.parameters()).fill_(float("inf"))


@pytest.mark.parametrize(("algorithm", "options"), [(Breaking, {}), (BreakingDQN, DQN_OPTIONS)], ids=["ppo", "dqn"])
def test_parameters(algorithm: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpt_gym.training.algorithms.algorithm_class", lambda _: algorithm)
    monkeypatch.setattr("vpt_gym.training.train.KEEP_SECONDS", 0.0)
    with pytest.raises(
        NonFiniteRunError, match=r"a parameter of the (PPO|DQN) head is not finite after .* at step 1\d\d"
    ) as e:
        train(config(**options), tmp_path)
    written = check_failed(tmp_path, e.value, algorithm.__base__)
    assert 64 <= written["steps"] <= 128


def test_an_update_that_breaks_half_way(tmp_path: Path) -> None:
    """Torch's own words, of a distribution with parameters that are NaN, are not what a user reads."""
    wild: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "learning_rate": 3e37}
    with pytest.raises(
        NonFiniteRunError, match=r"a parameter of the PPO head is not finite .* lower learning_rate"
    ) as e:
        train(config(hyperparameters=wild), tmp_path)
    check_failed(tmp_path, e.value, PPO)
