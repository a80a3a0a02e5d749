"""What is not finite is noticed where it comes from, before statistics, a replay buffer or a head have taken it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vpt_gym.errors import VPTGymError

__all__ = ["NonFiniteRunError", "SoundVecEnv", "is_sound"]


class NonFiniteRunError(VPTGymError, ArithmeticError):
    """A reward, an observation or a head's parameter is NaN or infinite, as a float32."""


class SoundVecEnv(VecEnvWrapper):
    """Passes on rewards and observations that are finite, and raises at the first that is not.

    Args:
        venv: any VecEnv.
        owner: what messages call the environment.

    Raises:
        NonFiniteRunError: from `reset` and `step`: names the environment, the step and the entry. Numbers too large for a
            float32, which is what algorithms keep, are infinite.
    """

    def __init__(self, venv: VecEnv, owner: str) -> None:
        super().__init__(venv)
        self.owner = owner
        self.steps = 0

    def reset(self) -> Any:
        """Resets all environments."""
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        self._check_observations(observations)
        return observations

    def step_wait(self) -> tuple[Any, npt.NDArray[Any], npt.NDArray[Any], list[dict[str, Any]]]:
        """Waits for the environments."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.reset_infos = self.venv.reset_infos
        self.steps += self.num_envs
        self._check("reward", np.asarray(rewards), range(self.num_envs))
        self._check_observations(observations)
        for row in np.flatnonzero(dones):
            last = infos[row].get("terminal_observation")
            if isinstance(last, Mapping):
                self._check_observations({key: np.asarray(value)[None] for key, value in last.items()}, [int(row)])
        return observations, rewards, dones, infos

    def _check_observations(self, observations: Any, rows: Any = None) -> None:
        # An observation that is no Dict is a frame or a latent, and the encoder sees to both.
        if isinstance(observations, Mapping):
            for key, values in observations.items():
                self._check(f"observation[{key!r}]", np.asarray(values), rows or range(self.num_envs))

    def _check(self, what: str, values: npt.NDArray[Any], rows: Any) -> None:
        if values.dtype.kind != "f":
            return
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32, copy=False)).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            came = f" ({values[bad]})" if values[bad].ndim == 0 else ""
            raise NonFiniteRunError(
                f"{self.owner}: the {what} of environment {rows[bad]} is not finite{came} at step {self.steps:,} of all "
                "environments together; mend the environment."
            )


LARGEST: Final = 1e18
"""Of a sound parameter: the products of two larger ones are near the end of float32."""


def is_sound(model: BaseAlgorithm) -> bool:
    """Whether every number of a model's policy is finite, and small enough for its products to be."""
    return all(bool((tensor.abs() <= LARGEST).all()) for tensor in model.policy.state_dict().values())
