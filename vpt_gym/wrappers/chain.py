"""What an environment and the wrappers around it tell of themselves, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.errors import ObservationError, VPTGymError
from vpt_gym.frames import FrameSource, picture_shape

__all__ = ["check_kind", "layers", "refuse_stack"]

GREY: Final = ("grayscale", "grayscale_obs", "gray_scale", "greyscale")
"""What environments call the setting that makes their pictures grey."""


def layers(env: Any) -> Iterator[Any]:
    """The wrappers from the outermost inwards, then the environment; of several in this process, the first."""
    while env is not None:
        yield env
        own = _own(env)
        several = own.get("envs", own.get("vec_envs"))
        first = several[0] if isinstance(several, (list, tuple)) and several else None
        env = own.get("env", own.get("venv", first))


def _own(layer: Any) -> dict[str, Any]:
    """The attributes of a layer itself; a wrapper hands on those of what it wraps."""
    return getattr(layer, "__dict__", {})


def _says(layer: Any, name: str) -> bool:
    """Whether a layer was made with a setting on: its attribute, its spec's argument, or EnvPool's configuration."""
    own = _own(layer)
    spec = own.get("spec")
    places = (own, getattr(spec, "kwargs", None), getattr(spec, "config", None))
    return any(
        (place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)) is True for place in places
    )


def check_kind(env: Any, kind: type, wraps: str) -> None:
    """Raises VPTGymError, which says what to do instead, unless `env` is of the kind that a wrapper `wraps`."""
    name = type(env).__name__
    count = getattr(getattr(env, "unwrapped", env), "num_envs", 1)
    if kind is gym.Env and isinstance(env, gym.Env) and isinstance(count, int) and count > 1:
        remedy = (
            "use vpt_gym.vector.VPTLatentObservation"
            if issubclass(type(env), gym.vector.VectorEnv)
            else "put it into a gymnasium.vector.VectorEnv that says when it resets (docs/wrappers.md has the lines), and that "
            "into vpt_gym.vector.VPTLatentObservation"
        )
        raise VPTGymError(f"{wraps}, one environment, but a {name} of {count} environments came; {remedy}.")
    if isinstance(env, kind):
        return
    if not _of_our_kinds(env) and callable(getattr(env, "reset", None)) and callable(getattr(env, "step", None)):
        raise VPTGymError(
            f"{wraps}, but {type(env).__module__}.{name} came, which speaks like an environment of the old Gym's API and is "
            "none of Gymnasium's; convert it first: shimmy.GymV21CompatibilityV0(env=env) where step returns four values, "
            "shimmy.GymV26CompatibilityV0(env=env) where it returns five (pip install 'shimmy[gym-v21]' or 'shimmy[gym-v26]')."
        )
    raise VPTGymError(
        f"{wraps}, but a {name} came first; use VPTLatentObservation for one environment, "
        "vpt_gym.vector.VPTLatentObservation for Gymnasium's vector environments and vpt_gym.sb3.VecVPTLatent for SB3's."
    )


def _of_our_kinds(env: object) -> bool:
    # By name, since Stable-Baselines3 need not be imported for this.
    names = {f"{base.__module__}.{base.__name__}" for base in type(env).__mro__}
    return isinstance(env, (gym.Env, gym.vector.VectorEnv)) or any(
        name.startswith("stable_baselines3.") and name.endswith(".VecEnv") for name in names
    )


def refuse_stack(env: Any, source: FrameSource) -> None:
    """Raises ObservationError when the layers tell that three channels are three grey frames, one after the other."""
    if source.channels != 3:
        return
    for layer, inner in pairwise([*layers(env), None]):
        if _channels(layer, source) != 3:
            return
        name = type(layer).__name__
        grey = any(_says(layer, setting) for setting in GREY)
        stacked = "stack" in name.lower() and inner is not None and _channels(inner, source) == 1
        if grey or stacked:
            raise ObservationError(
                f"{source.owner}: the image has shape {source.shape}, but {name} makes its pictures grey and stacks three of "
                "them, which are no red, green and blue; take a stack of one (or leave the stack out): the network remembers "
                "the frames before, and latents can be stacked outside the encoder."
            )


def _channels(layer: Any, source: FrameSource) -> int | None:
    """Of the picture that a layer hands out, where it is found at the same place; None where it is not."""
    space = getattr(layer, "single_observation_space", None) or getattr(layer, "observation_space", None)
    for key in source.path:
        space = space.spaces.get(key) if isinstance(space, gym.spaces.Dict) else space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8:
        return None
    shape = picture_shape(space.shape)
    if len(shape) == 2:
        return 1
    if len(shape) != 3:
        return None
    return next((shape[axis] for axis in (2, 0) if shape[axis] in (1, 3)), None)
