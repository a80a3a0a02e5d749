"""A VecEnv that costs next to nothing: what remains of a measurement on it is the wrapper, the network and the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.bench.candidates import frames_in_turn
from vpt_gym.bench.pictures import Pictures


class PreparedVecEnv(VecEnv):
    """Hands out frames that lie ready, at the encoder's size already, and ends episodes in staggered order.

    Args:
        num_envs: N.
        pictures: where the frames come from.
        episode: steps of an episode; None for episodes without end. Row i ends `i * episode / N` steps earlier than row 0.
    """

    def __init__(self, num_envs: int, pictures: Pictures, *, episode: int | None = None) -> None:
        space = gym.spaces.Box(0, 255, pictures.videos[0].shape[1:], np.uint8)
        self.render_mode = None
        super().__init__(num_envs, space, gym.spaces.Discrete(4))
        self._frames = frames_in_turn(pictures, num_envs)
        self._episode = episode
        self._offset = np.arange(num_envs) * (episode or 0) // num_envs
        self._steps = 0

    def reset(self) -> npt.NDArray[np.uint8]:
        """Opening frames, uint8 [N, size, size, 3]."""
        self._steps = 0
        return self._frames()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Nothing is to be done with actions."""

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """The next frames; a reward of 0."""
        self._steps += 1
        frames = self._frames()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = np.zeros(self.num_envs, np.bool_)
        if self._episode is not None:
            done = (self._steps + self._offset) % self._episode == 0
            if done.any():
                last, frames = frames, self._frames()
            for row in np.flatnonzero(done):
                infos[row] = {"terminal_observation": last[row], "TimeLimit.truncated": False}
        return frames, np.zeros(self.num_envs, np.float32), done, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every row."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There are no environments to set anything on."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """There are no environments to call."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """No row is."""
        del wrapper_class, indices
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Nothing is random."""
        del seed
        return [None] * self.num_envs
