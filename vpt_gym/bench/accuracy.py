"""What a precision costs: its latents beside float32's, at every step of long videos with random resets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vpt_gym.bench.pictures import Pictures
from vpt_gym.encoders.protocol import Stream
from vpt_gym.errors import VPTGymError

__all__ = ["ROWS", "compare"]

Latents = npt.NDArray[np.float32]

ROWS = 2
"""One row that never resets after its start, so that an error can add up, and one that resets at random."""
RESETS_EVERY = 50
"""Frames between two resets of the second row, on average."""
AGES = ((1, 8), (9, 32), (33, 128), (129, 512), (513, None))
"""Frames since the reset, in classes: inside the memory's 128 frames, and beyond them."""


def compare(
    reference: Stream,
    others: Mapping[str, Stream],
    pictures: Pictures,
    steps: int,
    tick: Callable[[float], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Steps streams of two rows through the same frames, a video for each row, and the same resets.

    Args:
        reference: float32's.
        others: name to stream.
        pictures: the frames.
        steps: of each row, 4 at least.
        tick: told before every step which share is done, 0 to 1; what it raises ends the comparison.

    Returns:
        For each name, JSON values over all latents. An error is the length of a difference over that of float32's latent;
        `quarters` has its medians over time, `by_age` over the frames since a reset, and the two `growth` are the last of
        these over the first, about 1 when errors do not add up; None when there is no first error.

    Raises:
        VPTGymError: latents are not finite.
    """
    first_tb = np.random.default_rng(0).random((steps, ROWS)) < 1 / RESETS_EVERY
    first_tb[:, 0] = False
    first_tb[0] = True
    wanted_tbd: list[Latents] = []
    got: dict[str, list[Latents]] = {name: [] for name in others}
    for step in range(steps):
        tick(step / steps)
        frames = pictures.frames(ROWS, step)
        wanted_tbd.append(reference.step(frames, first_tb[step]).cpu().numpy())
        for name, stream in others.items():
            got[name].append(stream.step(frames, first_tb[step]).cpu().numpy())
            if not np.isfinite([got[name][-1], wanted_tbd[-1]]).all():
                raise VPTGymError(f"Latents in {name} or float32 are not finite at step {step}: look at the weights.")
    return {name: _judge(np.stack(wanted_tbd), np.stack(got_tbd), first_tb) for name, got_tbd in got.items()}


def _judge(wanted_tbd: Latents, got_tbd: Latents, first_tb: npt.NDArray[np.bool_]) -> dict[str, Any]:
    # In float64: a cosine of 0.9999999 is not to be lost in the comparison itself.
    wanted, got = wanted_tbd.astype(np.float64), got_tbd.astype(np.float64)
    length = np.linalg.norm(wanted, axis=2)
    cosine = (wanted * got).sum(axis=2) / (length * np.linalg.norm(got, axis=2))
    error = np.linalg.norm(got - wanted, axis=2) / length
    quarters = [float(np.median(quarter)) for quarter in np.array_split(error, 4)]
    time_t1 = np.arange(len(first_tb))[:, None]
    age_tb = time_t1 - np.maximum.accumulate(np.where(first_tb, time_t1, 0), axis=0) + 1
    by_age = {}
    for least, most in AGES:
        inside = (age_tb >= least) & (age_tb <= (most or np.inf))
        if inside.any():
            by_age[f"{least}-{most}" if most else f"{least}+"] = float(np.median(error[inside]))
    oldest, youngest = list(by_age.values())[-1], by_age["1-8"]
    return {
        "steps": len(first_tb),
        "resets": int(first_tb.sum()),
        "cosine_min": float(cosine.min()),
        "cosine_median": float(np.median(cosine)),
        "max_abs": float(np.abs(got - wanted).max()),
        "error_median": float(np.median(error)),
        "quarters": quarters,
        "by_age": by_age,
        "growth_over_time": quarters[-1] / quarters[0] if quarters[0] else None,
        "growth_since_reset": oldest / youngest if youngest else None,
    }
