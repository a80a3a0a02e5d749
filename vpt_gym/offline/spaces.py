"""Action spaces of recordings: told, or found out from the actions."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.errors import RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.offline.recordings import Array

__all__ = ["common_space", "inferred_space", "latent_space", "space_of", "text_of"]


def text_of(space: gym.Space[Any]) -> str:
    """A space as Minari writes it, JSON."""
    serialization: Any = import_extra("minari.serialization", "offline", "Writing a dataset")
    return str(serialization.serialize_space(space))


def space_of(words: str | dict[str, Any], name: str) -> gym.Space[Any]:
    """The space that Minari wrote.

    Raises:
        RecordingError: it is none.
    """
    serialization: Any = import_extra("minari.serialization", "offline", "Reading a dataset")
    try:
        space: gym.Space[Any] = serialization.deserialize_space(words)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        NotImplementedError,
        AssertionError,
    ) as error:
        raise RecordingError(f"{name}: {json.dumps(words)[:80]} is no space that Minari writes.") from error
    return space


def inferred_space(actions: Array, name: str) -> gym.Space[Any]:
    """The smallest space that holds these actions [T, ...]: Discrete, MultiDiscrete or Box.

    Raises:
        RecordingError: they are no numbers.
    """
    if actions.dtype.kind == "f":
        return gym.spaces.Box(-np.inf, np.inf, actions.shape[1:], np.float32)
    if actions.dtype.kind not in "iub" or actions.ndim > 2 or (actions.size and actions.min() < 0):
        raise RecordingError(
            f"{name}: actions must be whole numbers from 0 on, [T] or [T, parts], or floating-point ones, but "
            f"{actions.dtype} {actions.shape} came."
        )
    most = actions.astype(np.int64).max(axis=0, initial=0) + 1
    return gym.spaces.Discrete(int(most)) if actions.ndim == 1 else gym.spaces.MultiDiscrete(most)


def common_space(spaces: list[gym.Space[Any]]) -> gym.Space[Any] | None:
    """The space that holds the actions of all; None where no one space does.

    Discrete spaces may differ in size, since what was never done in an episode leaves no trace in it.
    """
    kinds = {type(space) for space in spaces}
    if len(kinds) != 1:
        return None
    if kinds == {gym.spaces.Discrete} and all(space.start == 0 for space in spaces):  # type: ignore[attr-defined]
        return gym.spaces.Discrete(max(int(space.n) for space in spaces))  # type: ignore[attr-defined]
    if kinds == {gym.spaces.MultiDiscrete} and len({space.shape for space in spaces}) == 1:
        return gym.spaces.MultiDiscrete(np.max([space.nvec for space in spaces], axis=0))  # type: ignore[attr-defined]
    return spaces[0] if all(space == spaces[0] for space in spaces) else None


def latent_space(size: int, dtype: str) -> gym.spaces.Box:
    """Every finite latent [size] of that type."""
    largest = np.finfo(dtype).max
    return gym.spaces.Box(-largest, largest, (size,), np.dtype(dtype).type)
