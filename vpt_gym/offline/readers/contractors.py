"""OpenAI's contractor recordings: a film, and beside it a `.jsonl` with what was pressed at every frame.

Source: `data_loader.py` of OpenAI's Video-Pre-Training, whose treatment of the recorder's quirks this follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vpt_gym.errors import RecordingError
from vpt_gym.offline import keyboard
from vpt_gym.offline.readers.video import decoded, opening, promised_frames
from vpt_gym.offline.recordings import ACTED, IN_LOSS, TIME, Array, Chunk, Recording, digest_of_file, failing_as

__all__ = ["ContractorRecording"]

KEYBOARD: Final = {
    **{f"key.keyboard.{slot}": f"hotbar.{slot}" for slot in range(1, 10)},
    "key.keyboard.w": "forward",
    "key.keyboard.s": "back",
    "key.keyboard.a": "left",
    "key.keyboard.d": "right",
    "key.keyboard.e": "inventory",
    "key.keyboard.q": "drop",
    "key.keyboard.space": "jump",
    "key.keyboard.left.shift": "sneak",
    "key.keyboard.left.control": "sprint",
}
"""The recorder's names of keys and ours; others, such as Escape, VPT has no button for."""

DEGREES: Final = 360.0 / 2400.0
"""That the camera turns when the mouse is moved by one."""

SCREEN_HEIGHT: Final = 720
"""Of the screen that the mouse's place is told on; the film is smaller."""

ARROW: Final = (
    "#               ",
    "##              ",
    "#o#             ",
    "#oo#            ",
    "#ooo#           ",
    "#oooo#          ",
    "#ooooo#         ",
    "#oooooo#        ",
    "#ooooooo#       ",
    "#oooooooo#      ",
    "#ooooo####      ",
    "#oo#oo#         ",
    "#o# #oo#        ",
    "##  #oo#        ",
    "#    #oo#       ",
    "     ###        ",
)
"""The mouse's arrow, # black and o white: the recorder films the game without it, and an agent in the game sees it."""


class ContractorRecording(Recording):
    """A film and its `.jsonl`, as one episode with VPT's actions, MultiDiscrete [8641, 121].

    An attack button that is down from the first frame counts only from when it is pressed. A change of the hotbar's slot, which
    the mouse's wheel makes too, is a press of that slot's key. Where a menu is open the cursor is drawn. Actions that press
    nothing and turn nothing are marked for the loss to leave out (`in_loss`), and their frames stay. Further labels are
    `gui_open` and `hotbar`.

    Args:
        path: of the film; the `.jsonl` has the same name.
        name: what it is called.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.frame_count = promised_frames(path, name)
        self.action_space = keyboard.action_space()

    def digest(self) -> str:
        """Of the film; the actions are part of the recording's identity by its `.jsonl`."""
        both = digest_of_file(self.path) + digest_of_file(self.path.with_suffix(".jsonl"))
        return hashlib.sha256(both.encode()).hexdigest()

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`; where film and actions are not of one length, the shorter counts."""
        columns, cursor = self._steps()
        count = len(cursor)
        start = 0
        for film, times in decoded(self.path, self.name, length):
            frames = film[: count - start]
            kept = len(frames)
            if not kept:
                break
            here = slice(start, start + kept)
            for frame, place in zip(frames, cursor[here], strict=True):
                if place is not None:
                    scale = frame.shape[0] / SCREEN_HEIGHT
                    draw_arrow(frame, int(place[0] * scale), int(place[1] * scale))
            rows = {key: values[here] for key, values in columns.items()}
            yield Chunk(frames, opening(kept, start), {**rows, TIME: times[:kept]})
            start += kept

    def _steps(self) -> tuple[dict[str, Array], list[tuple[float, float] | None]]:
        """Everything that the `.jsonl` tells, one row a frame; and where the cursor is, None where there is none."""
        path = self.path.with_suffix(".jsonl")
        with failing_as(f"{self.name}'s {path.name}", OSError, ValueError, KeyError, TypeError, IndexError):
            steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            if not steps:
                raise RecordingError(f"{path} is empty: leave the recording out, or encode the film alone.")
            keys, camera = _keys_of(steps)
            gui = np.array([bool(step["isGuiOpen"]) for step in steps])
            hotbar = np.array([int(step["hotbar"]) for step in steps])
            cursor = [
                (float(step["mouse"]["x"]), float(step["mouse"]["y"])) if step["isGuiOpen"] else None for step in steps
            ]
        actions = keyboard.from_keys(keys, camera)
        count = len(steps)
        null = (actions[:, 0] == keyboard.NULL_BUTTONS) & (actions[:, 1] == keyboard.NULL_CAMERA)
        columns: dict[str, Array] = {
            "actions": actions,
            "rewards": np.zeros(count),
            "terminations": np.zeros(count, bool),
            "truncations": np.zeros(count, bool),
            ACTED: np.ones(count, bool),
            IN_LOSS: ~null,
            "gui_open": gui,
            "hotbar": hotbar,
        }
        return columns, cursor


def _keys_of(steps: list[dict[str, Any]]) -> tuple[dict[str, Array], Array]:
    """Keys, bool [T] by name, and the camera in degrees [T, 2], of what the recorder wrote."""
    keys: dict[str, Array] = {key: np.zeros(len(steps), bool) for key in keyboard.KEYS}
    camera = np.zeros((len(steps), 2))
    stuck = steps[0]["mouse"]["newButtons"] == [0]
    slot = 0
    for place, step in enumerate(steps):
        mouse = step["mouse"]
        stuck = stuck and (place == 0 or 0 not in mouse["newButtons"])
        for name in step["keyboard"]["keys"]:
            if name in KEYBOARD:
                keys[KEYBOARD[name]][place] = True
        keys["attack"][place] = 0 in mouse["buttons"] and not stuck
        keys["use"][place] = 1 in mouse["buttons"]
        if step["hotbar"] != slot:
            slot = step["hotbar"]
            keys[f"hotbar.{slot + 1}"][place] = True
        camera[place] = mouse["dy"] * DEGREES, mouse["dx"] * DEGREES
    return keys, camera


def draw_arrow(frame: npt.NDArray[np.uint8], x: int, y: int) -> None:
    """Draws the mouse's arrow into a frame [H, W, 3], its tip at x, y, as far as it lies inside."""
    height, width = frame.shape[:2]
    for down, row in enumerate(ARROW):
        for right, pixel in enumerate(row):
            if pixel != " " and 0 <= y + down < height and 0 <= x + right < width:
                frame[y + down, x + right] = 255 if pixel == "o" else 0
