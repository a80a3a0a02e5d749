"""The worker's side: one environment, and an answer to every question about it, whatever the environment does."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from vpt_gym.errors import EnvironmentCrashed, VPTGymError

__all__ = ["Answer", "EnvHost", "Faulty", "stay_deaf"]

_SAME: Final = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors of a called method that are raised in the learner as what they are; others are a RuntimeError there."""


class Answer(NamedTuple):
    """What a worker says.

    Attributes:
        kind: `done`; `fault`, when the environment is not to be used any longer; or `error`, when the question alone failed.
        value: what was asked for; the fault in words; or the error to raise.
    """

    kind: str
    value: Any


class Faulty(Exception):  # noqa: N818 - it never leaves the room
    """What an environment gave is nothing that a learner may see."""


class EnvHost:
    """Makes an environment and answers `ask`: every error of the environment's is an answer.

    Args:
        make: makes the environment.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        self._make_env = make
        self._env: Any = None

    def ask(self, command: str, arguments: tuple[Any, ...]) -> Answer:
        """The answer to one command: `make`, `reset`, `step`, `close`, or another that VecEnvs have."""
        try:
            return Answer("done", getattr(self, f"_{command}")(*arguments))
        except Exception as error:  # noqa: BLE001 - whatever an environment raises is the supervisor's to decide on
            broken = command in ("reset", "step") or (command == "make" and isinstance(error, EnvironmentCrashed))
            return Answer("fault", _words(error)) if broken else Answer("error", _portable(error, command))

    def close(self) -> None:
        """Closes the environment, once."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _make(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        self._env = _patch_env(self._make_env())
        return self._env.observation_space, self._env.action_space

    def _reset(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        observation, info = self._env.reset(seed=seed, **({"options": options} if options else {}))
        self._check(observation, info)
        return observation, info

    def _step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._check(observation, info)
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.float32(reward))
        if not finite:
            raise Faulty(f"the reward is not finite as a float32 ({reward})")
        return observation, float(reward), bool(terminated), bool(truncated), info

    def _close(self) -> None:
        self.close()

    def _render(self) -> Any:
        return self._env.render()

    def _env_method(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return self._env.get_wrapper_attr(name)(*arguments, **named)

    def _get_attr(self, name: str) -> Any:
        return self._env.get_wrapper_attr(name)

    def _has_attr(self, name: str) -> bool:
        with suppress(AttributeError):
            self._env.get_wrapper_attr(name)
            return True
        return False

    def _set_attr(self, name: str, value: Any) -> None:
        setattr(self._env, name, value)

    def _is_wrapped(self, kind: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        return is_wrapped(self._env, kind)

    def _check(self, observation: Any, info: Mapping[str, Any]) -> None:
        if info.get("error"):
            raise Faulty(f"info['error'] says: {info['error']}")
        _check_observation(observation, self._env.observation_space, "the observation")


def _check_observation(observation: Any, space: spaces.Space[Any], what: str) -> None:
    """Raises Faulty unless an observation has the entries, shapes and types that its space says, and is finite."""
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping):
            raise Faulty(f"{what} is a {type(observation).__name__}, where the space is a Dict")
        missing = set(space.spaces) - set(observation)
        if missing:
            raise Faulty(f"{what} lacks {', '.join(sorted(map(repr, missing)))}")
        for key, entry in space.spaces.items():
            _check_observation(observation[key], entry, f"{what}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, (tuple, list)) or len(observation) != len(space.spaces):
            raise Faulty(f"{what} is no tuple of {len(space.spaces)} entries")
        for i, entry in enumerate(space.spaces):
            _check_observation(observation[i], entry, f"{what}[{i}]")
    elif isinstance(space, spaces.Box):
        _check_array(np.asarray(observation), space, what)


def _check_array(array: npt.NDArray[Any], space: spaces.Box, what: str) -> None:
    if array.shape != space.shape:
        raise Faulty(f"{what} has shape {array.shape}, where the space says {space.shape}")
    if space.dtype == np.uint8 and array.dtype != np.uint8:
        raise Faulty(f"{what} is {array.dtype}, where the space says uint8")
    if array.dtype.kind not in "biuf":
        raise Faulty(f"{what} is {array.dtype}, where the space says {space.dtype}")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            if not np.isfinite(array.astype(np.float32, copy=False)).all():
                raise Faulty(f"{what} is not finite")


def _words(error: Exception) -> str:
    """An error in one line, with the place in the environment's own code that it comes from."""
    said = " ".join(str(error).split())
    if isinstance(error, Faulty):
        return said
    name = type(error).__name__
    if isinstance(error, VPTGymError):
        return f"{name}: {said}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{name}: {said} ({place.filename}, line {place.lineno})"


def _portable(error: Exception, command: str) -> Exception:
    """An error that another process can raise."""
    if isinstance(error, VPTGymError):
        return error
    kind = type(error)
    return kind(str(error)) if kind in _SAME and command != "make" else RuntimeError(_words(error))


def stay_deaf() -> None:
    """Makes this process deaf to Ctrl-C, which a terminal sends to everybody and only the learner answers.

    The signal is blocked, not ignored, where the platform can: ViZDoom installs a C++ handler of its own over Python's. Threads
    and child processes (a game engine) inherit the block.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
