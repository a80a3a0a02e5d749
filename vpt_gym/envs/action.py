"""A Dict of discrete actions as one MultiDiscrete, the form that Stable-Baselines3 can act in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.errors import VPTGymError

__all__ = ["FlattenDictAction"]


class FlattenDictAction(gym.ActionWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Lays the entries of a Dict action side by side in one MultiDiscrete.

    A Discrete entry takes one place, a MultiDiscrete as many as it has elements (row by row). Every place counts from 0;
    an entry whose space starts elsewhere has its `start` added on the way in.

    Args:
        env: its actions are a Dict of Discrete and MultiDiscrete entries.
        keys: all keys of the action, in the order in which they shall lie; the space's own order by default.

    Raises:
        VPTGymError: `env` is none, its action space is another or empty, or `keys` are not exactly its keys; from `step`,
            when an action is not in the flat space.
    """

    def __init__(self, env: gym.Env[Any, Any], keys: Sequence[str] | None = None) -> None:
        if not isinstance(env, gym.Env):
            raise VPTGymError(f"FlattenDictAction wraps a Gymnasium environment, but {env!r} came.")
        space = env.action_space
        if not isinstance(space, gym.spaces.Dict):
            raise VPTGymError(
                f"FlattenDictAction needs a Dict of Discrete and MultiDiscrete actions, but the action space is {space}."
            )
        if not space.spaces:
            raise VPTGymError(
                "FlattenDictAction: the action space is a Dict without entries, which leaves nothing to act with."
            )
        if keys is not None and (isinstance(keys, str) or not isinstance(keys, Sequence)):
            raise VPTGymError(
                f"FlattenDictAction: keys= must be a list of the keys of the action, {_names(space.spaces)}, but {keys!r} came."
            )
        keys = list(space.spaces) if keys is None else list(keys)
        if len(keys) != len(space.spaces) or any(
            key not in keys for key in space.spaces
        ):  # keys need not be comparable
            raise VPTGymError(
                f"FlattenDictAction: keys= must name each key of the action once, {_names(space.spaces)}, but it is {keys}."
            )
        self._entries = {key: _places(key, space[key]) for key in keys}
        gym.utils.RecordConstructorArgs.__init__(self, keys=keys)
        gym.ActionWrapper.__init__(self, env)
        self.action_space = gym.spaces.MultiDiscrete(
            np.concatenate([entry.ravel() for entry in self._entries.values()])
        )

    def action(self, action: Any) -> dict[str, Any]:
        """Takes a flat action apart.

        Args:
            action: integers [places], within `action_space`.

        Returns:
            A new Dict action of the wrapped environment.
        """
        try:
            flat = np.asarray(action)
        except (TypeError, ValueError):  # rows of different lengths, or what no array can hold
            flat = np.empty(0)
        if not np.issubdtype(flat.dtype, np.integer) or not self.action_space.contains(flat):
            raise VPTGymError(
                f"FlattenDictAction: the action must be in {self.action_space}, for {_names(self._entries)}, but {action!r} "
                "came."
            )
        parts: dict[str, Any] = {}
        start = 0
        for key, nvec in self._entries.items():
            space = self.env.action_space[key]  # type: ignore[index]
            values = flat[start : start + nvec.size].reshape(nvec.shape) + space.start
            parts[key] = values.astype(space.dtype)
            if isinstance(space, gym.spaces.Discrete):
                parts[key] = parts[key][()]
            start += nvec.size
        return parts


def _places(key: str, space: gym.Space[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How many values each place of an entry has; shape () for Discrete."""
    if isinstance(space, gym.spaces.Discrete):
        return np.array(int(space.n), np.int64)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.astype(np.int64)
    raise VPTGymError(
        f"FlattenDictAction can flatten Discrete and MultiDiscrete entries only, but action[{key!r}] is {space}; discretise "
        "it first."
    )


def _names(keys: Any) -> str:
    return ", ".join(repr(key) for key in keys)
