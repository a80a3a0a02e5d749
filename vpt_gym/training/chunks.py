"""A diffusion policy in the place of a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.encoders import Encoder
from vpt_gym.encoders.text import CLIP, embed_goal
from vpt_gym.errors import OptionError
from vpt_gym.heads import DiffusionPolicy
from vpt_gym.training.config import EvaluationConfig

__all__ = ["Told", "load_diffusion", "open_policy"]


class Told:
    """A policy that is told one goal all the time, beside the latent.

    Args:
        policy: acts on latents and goals.
        goal: float32 [G].
    """

    def __init__(self, policy: DiffusionPolicy, goal: npt.NDArray[np.float32]) -> None:
        self.policy, self.goal = policy, goal

    def set_random_seed(self, seed: int) -> None:
        """The same seed gives the same actions."""
        self.policy.set_random_seed(seed)

    def predict(self, observation: Any, *rest: Any, **named: Any) -> Any:
        """Actions, as the policy's own, for latents [N, D]."""
        # A run with goals of its own gives them beside the latent; this one stands in their place.
        latents = observation["latent"] if isinstance(observation, dict) else observation
        goals = np.broadcast_to(self.goal, (len(latents), len(self.goal)))
        return self.policy.predict({"latent": latents, "goal": goals}, *rest, **named)


def open_policy(path: Path, encoder: Encoder) -> DiffusionPolicy:
    """A saved policy, for latents of this encoder.

    Raises:
        WeightsError: the file is no policy.
        OptionError: it is for other latents.
    """
    policy = DiffusionPolicy.load(path, encoder.device)
    if policy.latents != encoder.fingerprint:
        raise OptionError(
            f"{path} is for other latents (fingerprint {str(policy.latents)[:12]}) than "
            f"{encoder.describe()['source']} gives ({encoder.fingerprint[:12]}): play it on the encoder that it was "
            "trained on."
        )
    return policy


def load_diffusion(config: EvaluationConfig, venv: VecEnv, encoder: Encoder) -> DiffusionPolicy | Told:
    """The policy of `config.policy`, for environments on an encoder.

    Raises:
        WeightsError: the file is no policy.
        OptionError: it is for other latents, other actions or other goals.
    """
    assert config.policy is not None
    policy = open_policy(config.policy, encoder)
    if policy.action_space != venv.action_space:
        raise OptionError(
            f"{config.policy} acts in {policy.action_space}, but the environment in {venv.action_space}: name a run in the "
            "environment that it was trained for."
        )
    if config.goal is None:
        if policy.observation_space != venv.observation_space:
            raise OptionError(
                f"{config.policy} observes {policy.observation_space}, but the run's environments give "
                f"{venv.observation_space}: give --goal where it was trained with one."
            )
        return policy
    goal = embed_goal(config.goal, config.clip or CLIP)
    if policy.goal_size != len(goal) or policy.stack != 1:
        raise OptionError(
            f"{config.policy} was trained with goals of {policy.goal_size} numbers, but --goal is {len(goal)}: leave it "
            "out, or name the CLIP that it was trained with (--clip)."
        )
    return Told(policy, goal)
