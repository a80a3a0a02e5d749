"""Scripted players for ViZDoom's scenarios, and what they may look at that an agent cannot see: labels, depth, positions.

`Player` is one for all of them: it dodges missiles, shoots monsters, fetches what lies about and otherwise explores, with
whatever buttons a scenario has. It is made to be imitated, not to win. `targets` gives coarse maps of what it sees by, and
what the game knows of the player.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vpt_gym.errors import OptionError
from vpt_gym.extras import import_extra

__all__ = ["BUTTONS", "MAP", "Nearest", "Player", "buffers", "nearest", "targets"]

BUTTONS: Final = ("ATTACK", "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT", "TURN_LEFT", "TURN_RIGHT")
"""What `buffers(buttons=True)` gives every scenario, so that recordings of all have the same actions."""

MAP: Final = (12, 16)
"""Rows and columns of the coarse maps."""

OWN: Final = ("health", "ammunition", "forward speed", "sideways speed", "kills", "damage taken", "time")
"""The numbers of `own_state`: what an agent may know of itself that few frames show, each some tenths large."""

_ITEMS: Final = ("Health", "Armor", "Ammo", "Weapon", "Powerup", "Key")
_NOT_MISSILES: Final = ("BulletPuff", "Rocket", "RocketSmokeTrail", "PlasmaBall")
_ROCKETS: Final = 5
"""The rocket launcher among the weapons."""
_ROCKET_SPEED: Final = 20.0
"""Map units in a tic, of which a second has 35."""
_TRIGGER: Final = 10.0
"""Tics between pulling the trigger and the rocket's start."""
_FASTEST: Final = 16.0
"""Map units in a tic: about what a running player makes."""
_LONG: Final = 1000
"""Tics: half of most scenarios' longest episodes."""
_AT_A_WALL: Final = 1.0
"""Map units: who has moved by less in a step is held by something."""
_NEAR: Final = 12
"""Depth, of 255, at which a wall straight ahead is turned away from: some 60 map units."""


def buffers(*, buttons: bool = False, width: int = 160, **options: Any) -> dict[str, Any]:
    """Options of `gym.make` for a ViZDoom environment that a player can play and be recorded in.

    Args:
        buttons: every scenario gets the seven `BUTTONS`, pressed in any combination, in place of its own.
        width: of the screen in pixels, 160 or 320.
        options: anything else that `gym.make` takes, such as `frame_skip=4`.

    Raises:
        MissingExtraError: ViZDoom is not installed.
        OptionError: no such width.
    """
    vizdoom = import_extra("vizdoom", "vizdoom", "A scripted player for Doom")
    sizes = {160: "RES_160X120", 320: "RES_320X240"}
    if width not in sizes:
        raise OptionError(f"buffers: width must be 160 or 320, not {width!r}.")
    found = {
        "labels_buffer_enabled": True,
        "depth_buffer_enabled": True,
        "screen_resolution": getattr(vizdoom.ScreenResolution, sizes[width]),
        "max_buttons_pressed": 0,
        **options,
    }
    if buttons:
        found["available_buttons"] = [getattr(vizdoom.Button, name) for name in BUTTONS]
    return found


class Player:
    """Plays any scenario; an object of it serves one environment.

    Call it with the environment and its observation, which is not looked at: the game itself tells more. For the command line
    it is `--policy vpt_gym.envs.doom:Player`.
    """

    @staticmethod
    def env_kwargs() -> dict[str, Any]:
        """What `gym.make` must be told for the player to see: `vpt-gym record` asks for it."""
        return buffers(buttons=True)

    @staticmethod
    def targets(env: gym.Env[Any, Any]) -> dict[str, NDArray[Any]]:
        """What `vpt-gym record` keeps beside the frames: the function `targets` of this module."""
        return targets(env)

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._time = -1
        self._side = "LEFT"
        self._unarmed = False
        self._turning = 0
        self._places: list[tuple[float, float]] = []
        self._seen: dict[int, tuple[int, NDArray[np.float64]]] = {}

    def __call__(self, env: gym.Env[Any, Any], observation: object) -> Any:
        """The action to take now.

        Raises:
            OptionError: the environment is none of ViZDoom's, or was made without labels and depth.
        """
        del observation
        base = _doom(env)
        game = base.game
        opens = game.get_episode_time() <= self._time
        if opens or self._time < 0:
            # The weapon in hand is none yet where it is still being raised.
            self._unarmed = not any(_variable(base, f"AMMO{number}") for number in range(10))
        if opens:
            self._turning, self._places, self._seen = 0, [], {}
            self._side = "LEFT" if self._random.random() < 0.5 else "RIGHT"
        self._time = game.get_episode_time()
        names = [button.name for button in game.get_available_buttons()]
        wish = [] if base.state is None else [name for name in self._wish(base, names) if name in names]
        return _pressed(base, names, wish)

    def _wish(self, base: Any, names: Sequence[str]) -> list[str]:
        """Buttons to press, the most important first."""
        width = base.state.screen_buffer.shape[1]
        labels = [label for label in base.state.labels if label.width * label.height > 1]
        dodge = self._dodge(labels, width) if "MOVE_LEFT" in names else []
        monsters = [label for label in labels if label.object_category == "Monster"]
        if monsters and self._unarmed and "MOVE_LEFT" in names:
            return self._weave(base)
        items = [label for label in labels if _is_item(label)]
        if monsters and "ATTACK" in names:
            if len(monsters) > 1 and items and "MOVE_FORWARD" in names:
                fetched = max(items, key=lambda label: label.height)
                if abs(_offset(fetched, width)) < 0.3:
                    return self._run(monsters, fetched, width)
            best = max(monsters, key=lambda label: label.height * (1 - 0.15 * abs(_offset(label, width))))
            # With something to fetch behind the monsters, standing still is no way to live.
            return self._shoot(base, best, width, names, dodge, bool(items))
        if dodge or "MOVE_FORWARD" not in names:
            return dodge or [f"TURN_{self._side}"]
        # What is straight ahead and close beats what is large: turning takes time.
        if items and self._turning == 0:
            best = max(items, key=lambda label: label.height + label.width - 20 * abs(_offset(label, width)))
            self._unstuck(base)
            return [*_turn(_offset(best, width), 0.15), "MOVE_FORWARD"]
        return self._explore(base, names)

    @staticmethod
    def _dodge(labels: Sequence[Any], width: int) -> list[str]:
        """Away from the nearest missile, unless it passes by anyway."""
        missiles = [
            label
            for label in labels
            if label.object_category == "Explosive" and label.object_name not in _NOT_MISSILES and label.height >= 3
        ]
        if not missiles:
            return []
        offset = _offset(max(missiles, key=lambda label: label.height), width)
        return [] if abs(offset) >= 0.5 else ["MOVE_LEFT" if offset >= 0 else "MOVE_RIGHT"]

    @staticmethod
    def _run(monsters: Sequence[Any], item: Any, width: int) -> list[str]:
        """To an item through more than one monster, who would win a duel; who is in the way is shot at."""
        ahead = any(abs(_offset(each, width)) <= max(each.width / width, 0.04) for each in monsters)
        return [*(["ATTACK"] if ahead else []), "MOVE_FORWARD", *_turn(_offset(item, width), 0.15)]

    def _weave(self, base: Any) -> list[str]:
        """From wall to wall: what is aimed at where the player stands misses one who never stands."""
        place = (_variable(base, "POSITION_X"), _variable(base, "POSITION_Y"))
        if self._places and np.abs(np.subtract(place, self._places[-1])).sum() < _AT_A_WALL:
            self._side = "RIGHT" if self._side == "LEFT" else "LEFT"
        self._places = [place]
        return [f"MOVE_{self._side}"]

    def _shoot(
        self, base: Any, label: Any, width: int, names: Sequence[str], dodge: list[str], beyond: bool
    ) -> list[str]:
        offset, tolerance = _offset(label, width), max(label.width / width, 0.04)
        if _variable(base, "SELECTED_WEAPON") == _ROCKETS:
            offset, tolerance = self._lead(base, label), 0.03
            # A turn is coarser than this: near enough, the target's own way brings it before the muzzle.
            if tolerance < abs(offset) < 0.12:
                return []
        elif "MOVE_LEFT" not in names:
            # The smallest turn is larger than this: who aims better misses on the other side.
            tolerance = max(tolerance, 0.08)
        if abs(offset) <= tolerance:
            return ["ATTACK", *(dodge or (["MOVE_FORWARD"] if beyond else []))]
        side = "RIGHT" if offset > 0 else "LEFT"
        # A step to the side moves the aim by less than the smallest turn does.
        fine = abs(offset) < 0.25 or f"TURN_{side}" not in names
        if fine and f"MOVE_{side}" in names:
            return [f"MOVE_{side}"]
        return [f"TURN_{side}", *dodge]

    def _lead(self, base: Any, label: Any) -> float:
        """Where on the screen a rocket must be aimed to meet the target: -1 at the left edge, 1 at the right one."""
        here = np.array([_variable(base, "POSITION_X"), _variable(base, "POSITION_Y")])
        there = np.array([label.object_position_x, label.object_position_y])
        # Monsters are moved without a velocity, so it is what they have moved by since they were seen last.
        time, before = self._seen.get(label.object_id, (self._time, there))
        self._seen[label.object_id] = (self._time, there)
        speed = (there - before) / max(1, self._time - time)
        meets = there + speed * (np.linalg.norm(there - here) / _ROCKET_SPEED + _TRIGGER)
        angle = np.arctan2(*(meets - here)[::-1]) - np.radians(_variable(base, "ANGLE"))
        return float(-np.tan(np.clip((angle + np.pi) % (2 * np.pi) - np.pi, -1.4, 1.4)))

    def _unstuck(self, base: Any) -> None:
        """Notes where the player is; a turn is begun when it has hardly moved for a while."""
        place = (_variable(base, "POSITION_X"), _variable(base, "POSITION_Y"))
        self._places = [*self._places[-7:], place]
        if len(self._places) == 8 and max(np.ptp(np.array(self._places), axis=0)) < 8:
            self._turning, self._places = int(self._random.integers(4, 10)), []

    def _explore(self, base: Any, names: Sequence[str]) -> list[str]:
        self._unstuck(base)
        depth = base.state.depth_buffer
        height, width = depth.shape
        band = depth[height // 2 - height // 12 : height // 2 + height // 12]
        ahead = float(np.median(band[:, width * 2 // 5 : width * 3 // 5]))
        if self._turning == 0 and ahead < _NEAR:
            left, right = band[:, : width // 3].mean(), band[:, -(width // 3) :].mean()
            self._side = "LEFT" if left > right else "RIGHT"
            self._turning = int(self._random.integers(2, 6))
        elif self._turning == 0 and self._random.random() < 0.04:
            self._side = "LEFT" if self._random.random() < 0.5 else "RIGHT"
            self._turning = int(self._random.integers(1, 5))
        if self._turning > 0 and f"TURN_{self._side}" in names:
            self._turning -= 1
            return [f"TURN_{self._side}", *(["MOVE_FORWARD"] if ahead >= _NEAR else [])]
        return ["MOVE_FORWARD"]


def targets(env: gym.Env[Any, Any]) -> dict[str, NDArray[Any]]:
    """What an encoder may learn to tell beside the player's action: maps of what is in view, and numbers of the player's own.

    Returns:
        `depth_map`, uint8 [12, 16], the mean depth of each cell (0 near, 255 far); `what_map`, uint8 [3, 12, 16], the share
        of each cell (0 to 255) that monsters, items and everything else that has a label cover; and `own_state`, float32
        [7], the numbers of `OWN`.

    Raises:
        OptionError: as `Player`.
    """
    base = _doom(env)
    state = base.state
    if state is None:
        return {
            "depth_map": np.zeros(MAP, np.uint8),
            "what_map": np.zeros((3, *MAP), np.uint8),
            "own_state": np.zeros(len(OWN), np.float32),
        }
    kinds = np.zeros(256, np.intp)
    for label in state.labels:
        kinds[label.value] = _kind(label)
    what = kinds[state.labels_buffer]
    shares = [_cells((what == kind) * 255.0) for kind in (1, 2, 3)]
    return {
        "depth_map": _cells(state.depth_buffer),
        "what_map": np.stack(shares),
        "own_state": _own_state(base),
    }


def _own_state(base: Any) -> NDArray[np.float32]:
    angle = math.radians(_variable(base, "ANGLE"))
    speed = complex(_variable(base, "VELOCITY_X"), _variable(base, "VELOCITY_Y")) * cmath.exp(-1j * angle)
    scaled = (
        _variable(base, "HEALTH") / 100,
        _variable(base, "SELECTED_WEAPON_AMMO") / 50,
        speed.real / _FASTEST,
        -speed.imag / _FASTEST,
        _variable(base, "KILLCOUNT") / 10,
        _variable(base, "DAMAGE_TAKEN") / 100,
        base.game.get_episode_time() / _LONG,
    )
    return np.clip(scaled, -2, 2).astype(np.float32)


class Nearest(NamedTuple):
    """The monster or item that takes most of the screen's height.

    Attributes:
        angle: where its middle is, from -1 (left edge of the screen) to 1 (right edge).
        size: the share of the screen's height that it takes.
        distance: from the player, in map units; who walks makes some 10 in a tic.
        number: which of the game's objects it is; the same as long as it exists.
        place: where it is on the map (x, y).
    """

    angle: float
    size: float
    distance: float
    number: int
    place: tuple[float, float]


def nearest(env: gym.Env[Any, Any]) -> Nearest | None:
    """The nearest monster or item in view, for probes; None when there is none.

    Raises:
        OptionError: as `Player`.
    """
    base = _doom(env)
    found = [] if base.state is None else [label for label in base.state.labels if _kind(label) in (1, 2)]
    if not found:
        return None
    label = max(found, key=lambda label: label.height)
    height, width = base.state.screen_buffer.shape[:2]
    place = (float(label.object_position_x), float(label.object_position_y))
    here = (_variable(base, "POSITION_X"), _variable(base, "POSITION_Y"))
    return Nearest(_offset(label, width), label.height / height, math.dist(place, here), label.object_id, place)


def _doom(env: gym.Env[Any, Any]) -> Any:
    base: Any = env.unwrapped
    game = getattr(base, "game", None)
    if game is None or not hasattr(game, "get_available_buttons"):
        raise OptionError(f"A player of vpt_gym.envs.doom plays ViZDoom's environments, and {env} is none of them.")
    if not (game.is_labels_buffer_enabled() and game.is_depth_buffer_enabled()):
        raise OptionError(
            f"A player of vpt_gym.envs.doom sees by labels and depth, which {env} was made without; make it with "
            "gym.make(id, **vpt_gym.envs.doom.buffers())."
        )
    return base


def _variable(base: Any, name: str) -> float:
    vizdoom = import_extra("vizdoom", "vizdoom", "A scripted player for Doom")
    return float(base.game.get_game_variable(getattr(vizdoom.GameVariable, name)))


def _kind(label: Any) -> int:
    """1 for monsters, 2 for items, 3 for the rest; 0 for the player, whose own weapon is no news."""
    category = label.object_category
    if category == "Self":
        return 0
    if category == "Monster":
        return 1
    return 2 if _is_item(label) else 3


def _is_item(label: Any) -> bool:
    return label.object_category in _ITEMS and label.object_name != "Poison"


def _cells(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    rows, columns = MAP
    height, width = pixels.shape
    parts = pixels[: height // rows * rows, : width // columns * columns].reshape(rows, height // rows, columns, -1)
    cells: NDArray[np.uint8] = np.rint(parts.mean(axis=(1, 3))).astype(np.uint8)
    return cells


def _offset(label: Any, width: int) -> float:
    """Where the middle of an object is: -1 at the left edge of the screen, 1 at the right one."""
    return float((2 * label.x + label.width) / width - 1)


def _turn(offset: float, tolerance: float) -> list[str]:
    if abs(offset) <= tolerance:
        return []
    return ["TURN_RIGHT" if offset > 0 else "TURN_LEFT"]


def _pressed(base: Any, names: Sequence[str], wish: Sequence[str]) -> Any:
    """The wish in the environment's own action space."""
    if isinstance(base.action_space, gym.spaces.MultiBinary):
        return np.array([name in wish for name in names], np.int8)
    if not isinstance(base.action_space, gym.spaces.Discrete):
        raise OptionError(
            f"A player of vpt_gym.envs.doom presses buttons, and the actions here are {base.action_space}: make the "
            "environment with gym.make(id, **vpt_gym.envs.doom.buffers(buttons=True))."
        )
    # Which combination has the most of what is wished, the first wish above all, and nothing else.
    weights = np.array([2.0 ** -wish.index(name) if name in wish else -4.0 for name in names])
    return int(np.argmax(np.array(base.button_map, float) @ weights))
