"""The options of Minecraft, checked before a simulator is built from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.checks import check_count
from vpt_gym.errors import VPTGymError

__all__ = ["callback_spaces", "camera_config_of", "check_options", "size_of"]

LARGEST_SIDE: Final = 4096
"""Pixels; a picture of this width and height weighs 50 MB."""


def check_options(
    num_empty_frames: object,
    launch_timeout: object,
    inventory: object,
    preferred_spawn_biome: object,
    render_mode: object,
) -> None:
    """Raises VPTGymError, which names the option, unless each is what `MinecraftEnv` says."""
    if render_mode not in (None, "rgb_array"):
        raise VPTGymError(f"Minecraft: render_mode must be 'rgb_array' or None, not {render_mode!r}.")
    check_count("Minecraft: num_empty_frames", num_empty_frames)
    if not _is_positive(launch_timeout):
        raise VPTGymError(f"Minecraft: launch_timeout must be a number of seconds above 0, not {launch_timeout!r}.")
    if inventory is not None and not isinstance(inventory, Mapping):
        raise VPTGymError(f"Minecraft: inventory must be a dict, as MineStudio's, or None, not {inventory!r}.")
    if preferred_spawn_biome is not None and not isinstance(preferred_spawn_biome, str):
        raise VPTGymError(
            f"Minecraft: preferred_spawn_biome must be the name of a biome or None, not {preferred_spawn_biome!r}."
        )


def size_of(name: str, value: object) -> tuple[int, int]:
    """A width and a height in pixels.

    Raises:
        VPTGymError: it is none, or a side is not from 1 to 4096.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise VPTGymError(f"Minecraft: {name} must be a width and a height in pixels, not {value!r}.")
    for side in value:
        check_count(f"Minecraft: each side of {name}", side)
        if side > LARGEST_SIDE:
            raise VPTGymError(f"Minecraft: each side of {name} must be at most {LARGEST_SIDE} pixels, not {side}.")
    return int(value[0]), int(value[1])


def callback_spaces(given: object) -> dict[str, gym.Space[Any]]:
    """The spaces of `callback_observations`.

    Raises:
        VPTGymError: it is no mapping from names to spaces, or takes the name of the image.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(
        isinstance(key, str) and isinstance(space, gym.Space) for key, space in given.items()
    ):
        raise VPTGymError(
            "Minecraft: callback_observations must be a dict of Gymnasium's spaces by the name of the observation, not "
            f"{given!r}."
        )
    if "image" in given:
        raise VPTGymError(
            "Minecraft: callback_observations must not name image, which is the picture in obs_size; choose another key."
        )
    return dict(given)


def camera_config_of(given: object, entry: Any) -> Any:
    """MineStudio's CameraConfig of these arguments.

    Args:
        given: a mapping, or None for VPT's bins.
        entry: the module `minestudio.simulator.entry`.

    Raises:
        VPTGymError: they are none of MineStudio's, or make bins of which none stands still.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise VPTGymError(f"Minecraft: camera_config must be a dict such as {{'camera_binsize': 2}}, not {given!r}.")
    try:
        config = entry.CameraConfig(**given)
    except (TypeError, ValueError) as error:
        raise VPTGymError(f"Minecraft: camera_config={dict(given)} is none of MineStudio's: {error}.") from error
    for name in ("camera_binsize", "camera_maxval"):
        check_count(f"Minecraft: camera_config's {name}", getattr(config, name))
    if not _is_positive(config.camera_mu):
        raise VPTGymError(f"Minecraft: camera_config's camera_mu must be a number above 0, not {config.camera_mu!r}.")
    if config.n_camera_bins % 2 == 0:
        raise VPTGymError(
            f"Minecraft: camera_config={dict(given)} makes {config.n_camera_bins} bins an axis; choose a camera_maxval and a "
            "camera_binsize that make an odd number, so that one of them stands still."
        )
    return config


def _is_positive(value: object) -> bool:
    """Whether it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return math.isfinite(value) and bool(value > 0)
