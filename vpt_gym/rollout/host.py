"""The worker's side: one environment, and an answer to every question about it, whatever the environment does."""

from __future__ import annotations

import hashlib
import signal
import time
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

_SAME: Final = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of a called method that are raised in the learner as what they are; others are a RuntimeError there."""

LARGEST_REWARD: Final = float(np.finfo(np.float32).max)

REPLAY_SECONDS: Final = 60.0
"""Longer episodes are not played again when a run is resumed."""


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
        self._opened: dict[str, Any] | None = None
        """What the running episode was opened with."""
        self._actions: list[Any] = []
        self._seconds = 0.0
        """That the episode has taken."""
        self._seen: Any = None
        """Its newest observation."""

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
        began = time.monotonic()
        self._opened = {"seed": seed, "options": options, "random": None if seed is not None else self._random_state()}
        observation, info = self._env.reset(seed=seed, **({"options": options} if options else {}))
        self._check(observation, info)
        self._actions, self._seconds, self._seen = [], time.monotonic() - began, observation
        return observation, info

    def _step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        began = time.monotonic()
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._check(observation, info)
        self._actions.append(action)
        self._seconds += time.monotonic() - began
        self._seen = observation
        reward = float(reward)
        if not abs(reward) <= LARGEST_REWARD:  # so NaN is none either
            raise Faulty(f"the reward is not finite as a float32 ({reward})")
        return observation, reward, bool(terminated), bool(truncated), info

    def _history(self) -> dict[str, Any] | None:
        """What the running episode can be played again from, after which it goes on; None for none that could be."""
        if self._opened is None or self._seconds > REPLAY_SECONDS or getattr(self._env.spec, "nondeterministic", False):
            return None
        actions = np.stack([np.asarray(action) for action in self._actions]) if self._actions else None
        return {**self._opened, "actions": actions, "seen": _digest(self._seen)}

    def _replay(self, history: Mapping[str, Any]) -> Any:
        """Plays an episode again in a new environment: its newest observation, or None where that is another than it was."""
        if history["random"] is not None:
            self._env.reset(seed=0)
            self._env.unwrapped.np_random.bit_generator.state = history["random"]
        self._reset(history["seed"], history["options"])
        self._opened = {name: history[name] for name in ("seed", "options", "random")}
        for action in () if history["actions"] is None else history["actions"]:
            self._step(action)
        return self._seen if _digest(self._seen) == history["seen"] else None

    def _random_state(self) -> dict[str, Any] | None:
        generator = getattr(self._env.unwrapped, "np_random", None)
        return None if generator is None else generator.bit_generator.state

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
    if isinstance(space, spaces.Box):
        _check_array(np.asarray(observation), space, what)
    elif isinstance(space, spaces.Dict):
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


def _digest(observation: Any) -> str:
    """Equal for equal observations."""
    digest = hashlib.sha256()
    waiting = [observation]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += [each[key] for key in sorted(each)]
        elif isinstance(each, tuple):
            waiting += each
        else:
            array = np.ascontiguousarray(each)
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


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
