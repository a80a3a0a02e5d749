"""What finished cells have left in their run folders: scores, and return against steps and wall time."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vpt_gym.compare.config import Cell
from vpt_gym.errors import VPTGymError
from vpt_gym.training.folder import RunFolder

__all__ = ["Curve", "Result", "band", "results_of"]

POINTS: Final = 60
"""Of a curve."""
WINDOW: Final = 0.1
"""Share of the training that a point of a curve looks back on."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """How a training went.

    Attributes:
        steps: environment steps [POINTS], evenly spaced, the last at the end.
        seconds: wall time of the training at those steps [POINTS].
        returns: mean return of the episodes that ended in the tenth of the training before [POINTS]; NaN before any ended.
    """

    steps: Array
    seconds: Array
    returns: Array

    def reaches(self, goal: float) -> tuple[float, float] | None:
        """Steps and seconds at which the return first is at the goal; in the first tenth, a mean of few episodes, never."""
        settled = self.steps >= WINDOW * self.steps[-1]
        there = np.flatnonzero(settled & (self.returns >= goal))
        return (float(self.steps[there[0]]), float(self.seconds[there[0]])) if len(there) else None


@dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes:
        cell: which.
        score: mean return of the evaluation after training.
        random: the random policy's on the same seeds.
        seconds: wall time of the training alone; None where a policy was played, and not trained.
        total_seconds: of everything, evaluations and loading too.
        encoder: what config.json says of the encoder.
        curve: how it went; None where nothing was trained.
    """

    cell: Cell
    score: float
    random: float
    seconds: float | None
    total_seconds: float
    encoder: dict[str, Any]
    curve: Curve | None


def results_of(cells: Sequence[Cell]) -> list[Result]:
    """The finished ones among the cells.

    Raises:
        VPTGymError: a run folder is damaged.
    """
    found = []
    for cell in cells:
        folder = RunFolder(cell.folder)
        if not folder.config.is_file():
            continue
        recorded = folder.read_config()
        if recorded.get("status") != "finished":
            continue
        try:
            seconds = float(recorded["seconds"]["training"]) if cell.policy is None else None
            found.append(
                Result(
                    cell=cell,
                    score=float(recorded["evaluation"]["mean"]),
                    random=float(recorded["random_policy"]["mean"]),
                    seconds=seconds,
                    total_seconds=float(recorded["seconds"]["total"]),
                    encoder=recorded["encoder"],
                    curve=None if seconds is None else _curve(folder, int(recorded["steps"]), seconds),
                )
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise VPTGymError(
                f"{cell.folder} says that it is finished, but it is damaged ({type(error).__name__}: {error}); remove the "
                "folder, and the same command trains it again."
            ) from error
    return found


def band(curves: Sequence[Array]) -> tuple[Array, Array, Array]:
    """The mean of curves [runs][POINTS] and the least and the greatest of them at each point; NaN where none has a value."""
    stacked = np.stack(curves)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    mean = np.where(known, stacked, 0).sum(axis=0) / np.where(count, count, 1)
    low, high = np.where(known, stacked, np.inf).min(axis=0), np.where(known, stacked, -np.inf).max(axis=0)
    return tuple(np.where(count, values, np.nan) for values in (mean, low, high))  # type: ignore[return-value]


def _curve(folder: RunFolder, steps: int, seconds: float) -> Curve:
    at = np.linspace(0, steps, POINTS + 1)[1:]
    ended, returns = _columns(folder.episodes, "steps", "return")
    means = np.full(POINTS, np.nan)
    for i, step in enumerate(at):
        recent = returns[(ended > step - WINDOW * steps) & (ended <= step)]
        if len(recent):
            means[i] = recent.mean()
    logged, elapsed = _columns(folder.progress, "time/total_timesteps", "time/time_elapsed")
    # The log knows whole seconds, the run itself how long it took.
    known = elapsed < seconds
    clock = np.interp(at, [0.0, *logged[known], steps], [0.0, *elapsed[known], seconds])
    return Curve(at, clock, means)


def _columns(path: Path, *names: str) -> tuple[Array, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.get(name) for name in names)]
    return tuple(np.array([float(row[name]) for row in rows]) for name in names)
