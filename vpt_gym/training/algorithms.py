"""Stable-Baselines3 models for a `TrainingConfig`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from vpt_gym.errors import VPTGymError
from vpt_gym.training.config import TrainingConfig

__all__ = ["build_model", "load_model", "load_statistics", "normalized"]

CLASSES: Final[Mapping[str, type[BaseAlgorithm]]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC}

HEAD_DEVICE: Final = "cpu"
"""A head of one or two layers spends more time on the way to an accelerator than in its update."""


def normalized(config: TrainingConfig, venv: VecEnv) -> VecEnv:
    """What the head sees: the latents, scaled if the run says so.

    Most of a latent is the same in every frame of one environment, and returns of some environments go into the hundreds;
    a linear head with PPO's clipped gradients learns from either only slowly.
    """
    return VecNormalize(venv, gamma=float(config.resolved["gamma"])) if config.normalize else venv


def load_statistics(config: TrainingConfig, path: Path, venv: VecEnv) -> VecEnv:
    """As `normalized`, with the statistics of the training, which then stand still.

    Raises:
        VPTGymError: the run folder lacks them.
    """
    if not config.normalize:
        return venv
    if not path.is_file():
        raise VPTGymError(f"{path} is missing, without which the run's model cannot see; restore it or train again.")
    loaded = VecNormalize.load(str(path), venv)
    loaded.training = False
    return loaded


def build_model(config: TrainingConfig, venv: VecEnv) -> BaseAlgorithm:
    """A fresh model with the run's head and hyperparameters, seeded."""
    several = isinstance(venv.observation_space, spaces.Dict)
    options: dict[str, Any] = dict(config.resolved)
    return CLASSES[config.algo](
        "MultiInputPolicy" if several else "MlpPolicy",
        venv,
        policy_kwargs={"net_arch": list(config.net_arch)},
        seed=config.seed,
        device=HEAD_DEVICE,
        **options,
    )


def load_model(config: TrainingConfig, path: Path, venv: VecEnv) -> BaseAlgorithm:
    """The trained model of a run.

    Raises:
        VPTGymError: the file is no model, or its spaces are not the environment's.
    """
    try:
        return CLASSES[config.algo].load(path, env=venv, device=HEAD_DEVICE)
    except zipfile.BadZipFile as error:
        raise VPTGymError(f"{path} is not a saved model ({error}); train again.") from error
    except ValueError as error:
        raise VPTGymError(f"{path} does not fit {config.env_id} as it is now: {error}") from error
