"""Observations of single environments, put together into those of a VecEnv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

__all__ = ["copied", "outline", "stacked"]


def outline(space: Any) -> Any:
    """What of a space, or of several, must be the same for all environments."""
    if isinstance(space, tuple):
        return [outline(each) for each in space]
    if isinstance(space, spaces.Dict):
        return {key: outline(entry) for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [outline(entry) for entry in space.spaces]
    return type(space).__name__, space.shape, str(space.dtype)


def stacked(observations: Sequence[Any], space: spaces.Space[Any]) -> Any:
    """Observations of single environments as one batch, fresh arrays."""
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in observations]) for key in space.spaces}
    if isinstance(space, spaces.Tuple):
        return tuple(np.stack([each[i] for each in observations]) for i in range(len(space.spaces)))
    return np.stack(observations)


def copied(observation: Any) -> Any:
    """The same in fresh arrays."""
    if isinstance(observation, Mapping):
        return {key: copied(entry) for key, entry in observation.items()}
    if isinstance(observation, tuple):
        return tuple(copied(entry) for entry in observation)
    return np.array(observation)
