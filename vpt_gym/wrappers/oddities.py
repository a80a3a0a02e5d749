"""What only frames can tell: that they are no pictures, or were written over before anybody read them. Each is said once."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["FirstLook", "Overwritten"]

LOOKS: Final = 32
"""Steps that are looked at; what is no picture shows in the first few."""

PLAIN: Final = 8
"""Moving pictures in colour after which nobody need look any longer."""

GRAIN: Final = 8
"""Every so many pixels are enough to see whether a picture moves."""

PICTURES: Final = 256
"""So many different ones, and pictures do not come again by chance."""

DARKEST: Final = 15
"""Ids of objects go no higher; a picture that somebody drew does."""


class FirstLook:
    """Looks at the first frames of all rows, resized, and warns once of what is odd."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._left, self._plain, self._shifts = LOOKS, 0, 0
        self._before: npt.NDArray[np.uint8] | None = None
        self._judged_brightness = False

    def at(self, frames_nhwc: Any) -> None:
        """Looks at one step's frames, uint8 [N, size, size, 3], array or tensor."""
        if not self._left:
            return
        self._left -= 1
        # A copy, as the environment may draw into the same array again.
        frames = np.array(frames_nhwc.cpu().numpy() if isinstance(frames_nhwc, Tensor) else frames_nhwc)
        self._judge_brightness(frames)
        if self._before is not None and self._before.shape == frames.shape:
            self._judge_channels(frames, self._before)
        self._before = frames if self._left else None

    def _judge_brightness(self, frames: npt.NDArray[np.uint8]) -> None:
        brightest = int(frames.max())
        if self._judged_brightness or not brightest:
            return
        self._judged_brightness = True
        if brightest <= DARKEST:
            warnings.warn(
                f"{self._owner}: the first frames hold no value above {brightest}, of 255. If these are ids of objects, put a "
                "wrapper in front that draws them (MiniGrid: minigrid.wrappers.RGBImgObsWrapper or RGBImgPartialObsWrapper); "
                "if they are pixels from 0 to 1, multiply them by 255.",
                stacklevel=2,
            )

    def _judge_channels(self, frames: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8]) -> None:
        """Grey frames in a stack move on by one channel a step, which colours never do."""
        red, green, blue = (frames[..., channel] for channel in range(3))
        coloured = _differ(red, green) | _differ(green, blue)
        later = ~_differ(red, before[..., 1]) & ~_differ(green, before[..., 2])
        earlier = ~_differ(green, before[..., 0]) & ~_differ(blue, before[..., 1])
        if (coloured & (later | earlier)).any():
            self._shifts += 1
        elif coloured.any():
            self._plain += 1
        if self._shifts == 2:
            warnings.warn(
                f"{self._owner}: each step's channels are those of the step before, moved on by one: three grey frames in a "
                "stack, and no colours. Take a stack of one (or leave the stack out): the network remembers the frames before.",
                stacklevel=2,
            )
        if self._shifts == 2 or self._plain == PLAIN:
            self._left = 0


def _differ(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    differ: npt.NDArray[np.bool_] = (left != right).any(axis=(1, 2))
    return differ


class Overwritten:
    """Notices last frames that are the next episode's opening frames to the bit, though the picture moves; warns once.

    Where few pictures come again and again, two of them are the same by chance, and nothing is said.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._said = False
        self._before: Any = None
        self._now: Any = None
        self._openings: set[int] = set()
        self._pictures: set[int] = set()

    def watch(self, frames_nhwc: Any) -> None:
        """Remembers a little of each step's frames, uint8 [N, size, size, 3], array or tensor."""
        if self._said:
            return
        coarse = frames_nhwc[:, ::GRAIN, ::GRAIN]
        self._before, self._now = self._now, coarse.clone() if isinstance(coarse, Tensor) else coarse.copy()
        if self._before is None or self._before.shape != self._now.shape:
            self._before = None
            return
        for row, (before, now) in enumerate(zip(self._before, self._now, strict=True)):
            # Opening frames may come again: they are no sign of few pictures.
            if row not in self._openings and len(self._pictures) < PICTURES and bool((before != now).any()):
                pixels = before.cpu().numpy() if isinstance(before, Tensor) else before
                picture = hash((row, pixels.tobytes()))
                self._said |= picture in self._pictures
                self._pictures.add(picture)
        self._openings.clear()

    def compare(self, last_nhwc: Any, opening_nhwc: Any, rows: npt.NDArray[np.int64]) -> None:
        """Looks at last and opening frames, resized, of these rows of the step that was watched last."""
        if self._said or self._before is None:
            return
        self._openings.update(rows.tolist())
        for last, opening, row in zip(last_nhwc, opening_nhwc, rows.tolist(), strict=True):
            # Where the picture stands still anyway, its last frame may well be as its first.
            if bool((last == opening).all()) and bool((self._before[row] != self._now[row]).any()):
                self._said = True
                warnings.warn(
                    f"{self._owner}: an episode's last frame is its next one's opening frame, to the bit. If the environment "
                    "hands out the same array at every step, reset drew over the last frame before it was read, and so its "
                    "latent is that of a wrong frame: return a copy from step and reset "
                    "(gymnasium.wrappers.TransformObservation(env, numpy.copy, env.observation_space) does).",
                    stacklevel=2,
                )
                return
