"""What goes between MineStudio's dictionaries and the caller: values of the caller's own, deaths, seeds of worlds."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.errors import VPTGymError

__all__ = ["deaths", "generator_seed", "named_world", "own_values", "seen_values", "world_seed_of"]


def own_values(value: Any, *, keep_arrays: bool = False) -> Any:
    """A copy that shares nothing with MineStudio's state and can be sent to another process.

    Mappings become dicts (MineStudio's have a local function as their default, which no pickle takes), and arrays of shape
    () become numbers, unless `keep_arrays`.
    """
    if isinstance(value, Mapping):
        return {key: own_values(entry, keep_arrays=keep_arrays) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [own_values(entry, keep_arrays=keep_arrays) for entry in value]
    if isinstance(value, np.ndarray):
        return value.item() if value.ndim == 0 and not keep_arrays else np.array(value)
    return value


def seen_values(observation: Mapping[str, Any], spaces: Mapping[str, gym.Space[Any]]) -> dict[str, Any]:
    """The caller's own observation: a copy of what has a space.

    Raises:
        VPTGymError: a value is not there, or of another shape, dtype or range than its space; callbacks make them.
    """
    missing = [key for key in spaces if key not in observation]
    if missing:
        raise VPTGymError(
            f"Minecraft: the observation lacks {missing}; the callback that adds what callback_observations declares must "
            "do so at each reset and step."
        )
    seen = {key: own_values(observation[key], keep_arrays=True) for key in spaces}
    for key, space in spaces.items():
        value = seen[key]
        if isinstance(space, gym.spaces.Box):
            fits = isinstance(value, np.ndarray) and value.dtype == space.dtype and space.contains(value)
        else:
            fits = space.contains(value)
        if not fits:
            came = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:100]
            raise VPTGymError(
                f"Minecraft: a callback made observation[{key!r}] {came}, which is not in its space {space}; return what the "
                "space declares."
            )
    return seen


def deaths(info: Mapping[str, Any]) -> int:
    """How often the player has died in the open world; the game lets it come back to life by itself."""
    return int(info.get("custom", {}).get("deaths", 0))


def world_seed_of(seed: object) -> int:
    """A world's seed as MineStudio takes it.

    Raises:
        VPTGymError: it is not a whole number that fits Minecraft's 64 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**63:
        raise VPTGymError(
            f"Minecraft: the seed of a world must be a whole number from -2**63 to 2**63 - 1, not {seed!r}."
        )
    return int(seed)


def generator_seed(seed: object, *, opens_world: bool) -> int | None:
    """What `reset(seed=)` was given, for the environment's generator.

    Args:
        seed: None, or a whole number from 0.
        opens_world: whether it becomes a world's seed too.

    Raises:
        VPTGymError: it is neither, or no world's seed where it must be one.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0:
        raise VPTGymError(f"Minecraft: reset's seed must be a whole number from 0, not {seed!r}.")
    return world_seed_of(seed) if opens_world else int(seed)


def named_world(options: object) -> int | None:
    """The world that `reset(options=)` names, None where it names none.

    Raises:
        VPTGymError: they are no mapping, hold something else, or the seed is none of a world.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise VPTGymError(f"Minecraft: reset's options must be a dict such as {{'world_seed': 1}}, not {options!r}.")
    unknown = [key for key in options if key != "world_seed"]
    if unknown:
        raise VPTGymError(f"Minecraft: reset knows the option world_seed only, not {unknown}.")
    named = options.get("world_seed")
    return None if named is None else world_seed_of(named)
