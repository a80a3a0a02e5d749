"""What a precision costs: its latents beside float32's, at every step of long videos with random resets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vpt_gym.bench.pictures import Frames, Pictures

__all__ = ["ROWS", "Accuracy", "compare"]

Latents = npt.NDArray[np.float32]
Stepper = Callable[[Frames, npt.NDArray[np.bool_]], Latents]
"""uint8 [rows, 128, 128, 3] and bool [rows] to float32 [rows, D]."""

ROWS = 2
"""One row that never resets after its start, so that an error can add up, and one that resets at random."""
RESETS_EVERY = 50
"""Frames between two resets of the second row, on average."""
AGES = ((1, 8), (9, 32), (33, 128), (129, 512), (513, None))
"""Frames since the reset, in classes: inside the memory's 128 frames, and beyond them."""


@dataclass(frozen=True)
class Accuracy:
    """How far latents are from float32's.

    The error of one latent is the length of its difference from float32's over the length of float32's.

    Attributes:
        steps: how many frames each row saw.
        resets: how many of all frames opened an episode.
        cosine_min: the smallest cosine of any two latents.
        cosine_median: the median cosine.
        max_abs: the largest difference of any two numbers.
        error_median: the median error.
        quarters: the median error in each quarter of the time.
        by_age: frames since the reset (`1-8`, `9-32`, ..., `513+`) to the median error of such frames.
    """

    steps: int
    resets: int
    cosine_min: float
    cosine_median: float
    max_abs: float
    error_median: float
    quarters: tuple[float, ...]
    by_age: dict[str, float]

    @property
    def growth_over_time(self) -> float:
        """Median error in the last quarter over that in the first: about 1 when errors do not add up."""
        return _ratio(self.quarters[-1], self.quarters[0])

    @property
    def growth_since_reset(self) -> float:
        """Median error of the frames longest after a reset over that of the frames right after one."""
        errors = list(self.by_age.values())
        return _ratio(errors[-1], errors[0])

    def to_dict(self) -> dict[str, Any]:
        """For the JSON, which has no word for what is not a finite number: such ones become `nan` or `inf`, as text."""
        values = {
            **asdict(self),
            "growth_over_time": self.growth_over_time,
            "growth_since_reset": self.growth_since_reset,
        }
        return {name: _in_json(value) for name, value in values.items()}


def compare(
    reference: Stepper,
    others: Mapping[str, Stepper],
    pictures: Pictures,
    steps: int,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = lambda _: None,
    seed: int = 0,
) -> dict[str, Accuracy]:
    """Steps all of them through the same frames and the same resets.

    Args:
        reference: float32.
        others: name to stepper.
        pictures: the frames; each of the two rows sees a video of its own.
        steps: frames of each row; at least 4.
        check: called before every step; what it raises ends the comparison.
        progress: told after every step which share is done.
        seed: of the resets.

    Returns:
        Name to accuracy.
    """
    assert steps >= 4, steps
    first_tb = np.random.default_rng(seed).random((steps, ROWS)) < 1 / RESETS_EVERY
    first_tb[:, 0] = False
    first_tb[0] = True
    wanted_tbd: list[Latents] = []
    got: dict[str, list[Latents]] = {name: [] for name in others}
    for step in range(steps):
        check()
        frames = pictures.frames(ROWS, step)
        wanted_tbd.append(reference(frames, first_tb[step]))
        for name, stepper in others.items():
            got[name].append(stepper(frames, first_tb[step]))
        progress((step + 1) / steps)
    ages_tb = _ages(first_tb)
    return {name: _judge(np.stack(wanted_tbd), np.stack(latents), first_tb, ages_tb) for name, latents in got.items()}


def _ages(first_tb: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Frames of the running episode up to each frame, its own included: int64 [T, rows]."""
    at_t1 = np.arange(len(first_tb))[:, None]
    opened_tb = np.maximum.accumulate(np.where(first_tb, at_t1, 0), axis=0)
    ages: npt.NDArray[np.int64] = at_t1 - opened_tb + 1
    return ages


def _judge(
    wanted_tbd: Latents, got_tbd: Latents, first_tb: npt.NDArray[np.bool_], ages_tb: npt.NDArray[np.int64]
) -> Accuracy:
    # In float64: a cosine of 0.9999999 is not to be lost in the comparison itself.
    wanted, got = wanted_tbd.astype(np.float64), got_tbd.astype(np.float64)
    difference = got - wanted
    length = np.linalg.norm(wanted, axis=2)
    cosine = (wanted * got).sum(axis=2) / (length * np.linalg.norm(got, axis=2))
    error = np.linalg.norm(difference, axis=2) / length
    by_age = {}
    for least, most in AGES:
        inside = (ages_tb >= least) & (ages_tb <= (most or np.inf))
        if inside.any():
            by_age[f"{least}-{most}" if most else f"{least}+"] = float(np.median(error[inside]))
    return Accuracy(
        steps=len(first_tb),
        resets=int(first_tb.sum()),
        cosine_min=float(cosine.min()),
        cosine_median=float(np.median(cosine)),
        max_abs=float(np.abs(difference).max()),
        error_median=float(np.median(error)),
        quarters=tuple(float(np.median(quarter)) for quarter in np.array_split(error, 4)),
        by_age=by_age,
    )


def _in_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_json(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_in_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(later: float, earlier: float) -> float:
    if earlier == 0:
        return 1.0 if later == 0 else float("inf")
    return later / earlier
