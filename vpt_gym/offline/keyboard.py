"""Minecraft's keys and mouse as VPT's two numbers: which combination of buttons, and which turn of the camera.

Source: `CameraHierarchicalMapping` and `CameraQuantizer` of OpenAI's Video-Pre-Training; a test compares with MineStudio's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vpt_gym.offline.recordings import Array

__all__ = [
    "BUTTONS",
    "CAMERAS",
    "KEYS",
    "NULL_BUTTONS",
    "NULL_CAMERA",
    "action_space",
    "from_keys",
    "pressed",
    "turned",
]

GROUPS: Final = (
    tuple(f"hotbar.{slot}" for slot in range(1, 10)),
    ("forward", "back"),
    ("left", "right"),
    ("sprint", "sneak"),
    ("use",),
    ("drop",),
    ("attack",),
    ("jump",),
)
"""Buttons of which VPT presses one at a time; a combination is one of each group or none, and whether the camera turns."""

SIZES: Final = (*(len(group) + 1 for group in GROUPS), 2)
INVENTORY: Final = int(np.prod(SIZES))
"""The last combination: the inventory's key, with nothing else."""

BUTTONS: Final = INVENTORY + 1
BINS: Final = 11
CAMERAS: Final = BINS * BINS
NULL_BUTTONS: Final = 0
NULL_CAMERA: Final = CAMERAS // 2
"""Bin 60: the camera stands still."""

KEYS: Final = (*(key for group in GROUPS for key in group), "inventory")

LARGEST_TURN: Final = 10.0
"""Degrees in a step; more is cut."""
MU: Final = 10.0
"""Of the mu-law that makes bins finer near 0."""


def action_space() -> gym.spaces.MultiDiscrete:
    """VPT's: [8641 combinations of buttons, 121 turns of the camera]."""
    return gym.spaces.MultiDiscrete([BUTTONS, CAMERAS])


def from_keys(keys: Mapping[str, Array], camera_t2: Array) -> npt.NDArray[np.int64]:
    """VPT's actions.

    Args:
        keys: 0 or 1 [T] by name, from `KEYS`; a key that is not there is not pressed.
        camera_t2: degrees [T, 2], down and right.

    Returns:
        int64 [T, 2]: buttons and camera.
    """
    count = len(camera_t2)
    zeros = np.zeros(count, bool)
    down = {key: np.asarray(keys.get(key, zeros)).reshape(count) != 0 for key in KEYS}
    scaled = np.clip(np.asarray(camera_t2, float), -LARGEST_TURN, LARGEST_TURN) / LARGEST_TURN
    bent = np.sign(scaled) * np.log1p(MU * np.abs(scaled)) / np.log1p(MU)
    bins_t2 = np.round((bent + 1) * LARGEST_TURN / 2).astype(np.int64)
    choices = []
    for group in GROUPS:
        chosen = np.zeros(count, np.int64)
        for place, key in enumerate(group):
            chosen[down[key]] = place + 1  # of two in a group the later counts
        if group in (("forward", "back"), ("left", "right")):
            chosen[down[group[0]] & down[group[1]]] = 0  # but opposite directions cancel
        choices.append(chosen)
    choices.append((bins_t2 != BINS // 2).any(axis=1).astype(np.int64))
    buttons = np.ravel_multi_index(tuple(choices), SIZES)
    camera = bins_t2[:, 0] * BINS + bins_t2[:, 1]
    buttons[down["inventory"]] = INVENTORY
    camera[down["inventory"]] = NULL_CAMERA
    return np.stack([buttons, camera], axis=1)


def pressed(buttons_t: Array) -> dict[str, npt.NDArray[np.bool_]]:
    """Which keys combinations [T] press: bool [T] by key."""
    buttons_t = np.asarray(buttons_t)
    inventory = buttons_t == INVENTORY
    choices = np.unravel_index(np.where(inventory, NULL_BUTTONS, buttons_t), SIZES)
    down = {key: choices[number] == place + 1 for number, group in enumerate(GROUPS) for place, key in enumerate(group)}
    return {**down, "inventory": inventory}


def turned(camera_t: Array) -> npt.NDArray[np.float64]:
    """Degrees [T, 2], down and right, of the middles of the camera's bins [T]."""
    bins_t2 = np.stack(np.divmod(np.asarray(camera_t), BINS), axis=1)
    bent = bins_t2 * 2 / LARGEST_TURN - 1
    return np.sign(bent) * ((1 + MU) ** np.abs(bent) - 1) / MU * LARGEST_TURN
