"""What callbacks return, checked: a callback that forgets its `return` is told so, and the game is not blamed for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from vpt_gym.errors import VPTGymError

__all__ = ["Guard"]


class Guard:
    """Stands in for a callback in MineStudio's list: the same class and attributes, but what it returns is checked.

    Args:
        callback: a MineStudio callback, which stays as it is.

    Raises:
        VPTGymError: from the four methods below, which name the callback's class and the method.
    """

    _callback: Any

    def __init__(self, callback: Any) -> None:
        self.__dict__["_callback"] = callback

    @property  # type: ignore[misc] # isinstance says of the guard what it says of the callback
    def __class__(self) -> type:
        return type(self._callback)

    def __getattr__(self, name: str) -> Any:
        if name == "_callback":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._callback, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._callback, name, value)

    def __repr__(self) -> str:
        return repr(self._callback)

    def before_reset(self, sim: Any, reset_flag: Any) -> bool:
        flag = self._callback.before_reset(sim, reset_flag)
        if not _is_flag(flag):
            raise self._error("before_reset", flag, "return the flag it was given, or another True or False")
        return bool(flag)

    def after_reset(self, sim: Any, obs: Any, info: Any) -> tuple[Any, Any]:
        came = self._callback.after_reset(sim, obs, info)
        if not _is_row(came, 2) or not all(isinstance(part, Mapping) for part in came):
            raise self._error("after_reset", came, "return the two dicts (observation, info)")
        return came[0], came[1]

    def before_step(self, sim: Any, action: Any) -> Any:
        came = self._callback.before_step(sim, action)
        if not isinstance(came, Mapping):
            raise self._error("before_step", came, "return the action, a dict")
        return came

    def after_step(
        self, sim: Any, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> tuple[Any, float, bool, bool, Any]:
        came = self._callback.after_step(sim, obs, reward, terminated, truncated, info)
        if not _is_row(came, 5) or not all(isinstance(came[place], Mapping) for place in (0, 4)):
            raise self._error("after_step", came, "return (observation, reward, terminated, truncated, info)")
        obs, reward, terminated, truncated, info = came
        if not _is_finite(reward):
            raise self._error("after_step", reward, "its reward must be one finite number", "the reward ")
        for flag, name in ((terminated, "terminated"), (truncated, "truncated")):
            if not _is_flag(flag):
                raise self._error("after_step", flag, "return True or False there", f"{name} = ")
        return obs, float(reward), bool(terminated), bool(truncated), info

    def _error(self, method: str, came: Any, do: str, what: str = "") -> VPTGymError:
        said = repr(came)
        said = said if len(said) <= 100 else f"{said[:100]}..."
        name = type(self._callback).__name__
        return VPTGymError(f"Minecraft: the callback {name}'s {method} returned {what}{said}; {do}.")


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == length


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, Integral) and value in (0, 1))


def _is_finite(value: Any) -> bool:
    """Whether it is a number, or an array or tensor of one, and neither nan nor infinite."""
    if isinstance(value, (str, bytes)):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # no number; RuntimeError: a tensor of many
        return False
