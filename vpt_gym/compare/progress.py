"""How far a matrix is: what its reporter is told, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpt_gym.compare.config import Cell

__all__ = ["ComparisonReporter", "Running", "Standing"]


@dataclass
class Running:
    """A cell that is being trained.

    Attributes:
        cell: which.
        phase: `starting`, `random policy`, `training` or `evaluation`.
        steps: environment steps so far.
        seconds: since the cell began.
        mean_return: of its last 100 episodes; None before the first has ended.
    """

    cell: Cell
    phase: str = "starting"
    steps: int = 0
    seconds: float = 0.0
    mean_return: float | None = None


@dataclass
class Standing:
    """Where the matrix stands.

    Attributes:
        total: cells of the matrix.
        done: cells that are finished, those of earlier calls included.
        failed: cells that broke in this call.
        running: those under way.
        seconds_left: until all are through, from what cells of the same pair, encoder or matrix took; None before anything
            is known.
    """

    total: int
    done: int
    failed: int = 0
    running: Sequence[Running] = field(default_factory=tuple)
    seconds_left: float | None = None


class ComparisonReporter:
    """Is told how a matrix goes; this base class keeps silent."""

    def checking(self, what: str) -> None:
        """An environment or an encoder is opened, to see that all can be had before the first training."""

    def probing(self, env: str, what: str) -> None:
        """After the trainings: the latents of an encoder are probed, or the best run's policy plays for it."""

    def standing(self, standing: Standing) -> None:
        """Called about once a second, and at the end."""

    def ended(self, cell: Cell, score: float, seconds: float, standing: Standing) -> None:
        """A cell is finished: its mean return and how long it took."""

    def failed(self, cell: Cell, error: str, standing: Standing) -> None:
        """A cell broke; the others go on."""


def seconds_left(
    waiting: Sequence[Cell], running: Sequence[Running], took: Mapping[Cell, float], jobs: int
) -> float | None:
    """What is left at the pace of what was: of the same pair, else of the same encoder, else of all."""

    def expected(cell: Cell) -> float | None:
        kinds = (
            [s for c, s in took.items() if (c.env, c.encoder) == (cell.env, cell.encoder)],
            [s for c, s in took.items() if c.encoder == cell.encoder],
            list(took.values()),
            [one.seconds * one.cell.training.planned_steps / one.steps for one in running if one.steps],
        )
        return next((fmean(kind) for kind in kinds if kind), None)

    ahead = [expected(cell) for cell in waiting]
    under_way = [(expected(one.cell), one.seconds) for one in running]
    if None in ahead or any(whole is None for whole, _ in under_way):
        return None
    rest = sum(whole for whole in ahead if whole is not None)
    rest += sum(max(0.0, whole - gone) for whole, gone in under_way if whole is not None)
    longest = max((whole - gone for whole, gone in under_way if whole is not None), default=0.0)
    return max(rest / jobs, longest)
