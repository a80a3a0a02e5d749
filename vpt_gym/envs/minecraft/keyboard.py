"""Actions of Minecraft as MineStudio takes them: their spaces, and the caller's values put into a dict of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.errors import VPTGymError

__all__ = ["ACTION_TYPES", "action_space", "own_action"]

ACTION_TYPES: Final = ("multi_discrete", "agent", "env")

KEYS: Final = (
    *("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "inventory"),
    *(f"hotbar.{slot}" for slot in range(1, 10)),
)
"""What the raw action presses; `drop`, which VPT's buttons know too, MineStudio's engine does not listen to."""


def action_space(action_type: str, buttons: int, cameras: int) -> gym.spaces.Dict:
    """The Dict space of an action type.

    Args:
        action_type: "agent" for VPT's buttons and camera; "env" for keys and mouse.
        buttons: how many combinations of buttons there are; VPT's mapping has 8641.
        cameras: how many movements of the camera; VPT's 11 x 11 bins make 121.
    """
    if action_type == "env":
        keys: dict[str, gym.Space[Any]] = {key: gym.spaces.Discrete(2) for key in KEYS}
        return gym.spaces.Dict({**keys, "camera": gym.spaces.Box(-180.0, 180.0, (2,), np.float32)})
    return gym.spaces.Dict({"buttons": gym.spaces.Discrete(buttons), "camera": gym.spaces.Discrete(cameras)})


def own_action(action: Any, space: gym.spaces.Dict) -> dict[str, Any]:
    """A new dict with the action's values, checked, for MineStudio to take apart.

    Args:
        action: a mapping of scalars, arrays or tensors of one element, or a tuple (buttons, camera). A key that a raw action
            leaves out is not pressed, and one that the game does not know may be there if it is 0.
        space: from `action_space`.

    Returns:
        For "agent" two int64 arrays of shape (); for "env" an int per key and the camera as float32 [2], degrees down and
        right.

    Raises:
        VPTGymError: it is no action of that space.
    """
    if "buttons" in space.spaces:
        if isinstance(action, tuple) and len(action) == 2:
            action = dict(zip(("buttons", "camera"), action, strict=True))
        given = _mapping(action, space)
        if len(given) != 2:
            raise VPTGymError(f"Minecraft: the action must have the keys buttons and camera, but {list(given)} came.")
        return {key: np.array(_number(key, given[key], space[key]), np.int64) for key in ("buttons", "camera")}
    given = _mapping(action, space)
    own: dict[str, Any] = {key: _number(key, given.get(key, 0), space[key]) for key in KEYS}
    try:
        numbers = np.asarray(given.get("camera", (0.0, 0.0)))
    except (TypeError, ValueError, RuntimeError):  # no numbers; RuntimeError: a tensor that has gradients
        numbers = np.empty(0)
    with np.errstate(over="ignore"):  # infinity is outside the space too
        camera = np.array(numbers if numbers.dtype.kind in "iuf" else (), np.float32).reshape(-1)
    if not space["camera"].contains(camera):
        raise VPTGymError(
            "Minecraft: action['camera'] must be two turns in degrees within -180 and 180, down and right, but "
            f"{given['camera']!r} came."
        )
    return {**own, "camera": camera}


def _mapping(action: Any, space: gym.spaces.Dict) -> Mapping[str, Any]:
    if not isinstance(action, Mapping):
        raise VPTGymError(
            f"Minecraft: the action must be a dict with the keys {', '.join(space.spaces)}, but {action!r} came; "
            'for flat actions make the environment with action_type="multi_discrete".'
        )
    # MineRL's and VPT's agents know keys that this engine does not listen to, and hand over 0 for each of them.
    unknown = [key for key, value in action.items() if key not in space.spaces and not _is_zero(value)]
    if unknown:
        raise VPTGymError(
            f"Minecraft: the action has the unknown keys {unknown}; its keys are {', '.join(space.spaces)}, and others must be "
            "0, not pressed."
        )
    return {key: action[key] for key in action if key in space.spaces}


def _is_zero(value: Any) -> bool:
    """Whether it is the number 0, or an array or tensor of one element that is."""
    if hasattr(value, "item") and int(np.prod(value.shape)) == 1:
        value = value.item()
    return isinstance(value, (int, float)) and value == 0


def _number(key: str, value: Any, space: gym.Space[Any]) -> int:
    """A number out of an int, or an array or tensor of one element."""
    if hasattr(value, "item") and int(np.prod(value.shape)) == 1:
        value = value.item()
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or not space.contains(int(value)):
        raise VPTGymError(f"Minecraft: action[{key!r}] must be a whole number in {space}, but {value!r} came.")
    return int(value)
