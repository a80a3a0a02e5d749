"""NaN and infinity end a run in a sentence, with the status `failed` and the last sound model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN, PPO

from tests.training.test_train import config
from vpt_gym.errors import EnvironmentFailedError
from vpt_gym.training import FleetConfig
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


ONCE = FleetConfig(max_failures=1)


def test_a_reward_that_is_not_finite_reaches_no_buffer(tmp_path: Path) -> None:
    """The environment counts as failed, and the run goes on without it or ends."""
    odd = {"odd": "reward", "odd_from": 5}
    with pytest.raises(EnvironmentFailedError, match=r"the reward is not finite as a float32 \(nan\).* is saved in"):
        train(config(env_kwargs=odd, n_envs=1), tmp_path, fleet=ONCE)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["status"] == "failed"


@pytest.mark.parametrize("odd_from", [3, 8], ids=["in the middle", "at the end"])
def test_an_observation_beside_the_latent(odd_from: int, tmp_path: Path) -> None:
    odd = {"as_dict": True, "odd": "compass", "odd_from": odd_from}
    with pytest.raises(EnvironmentFailedError, match=r"the observation\['compass'\] is not finite"):
        train(config(env_kwargs=odd, keep=("compass",), n_envs=1), tmp_path, fleet=ONCE)


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
