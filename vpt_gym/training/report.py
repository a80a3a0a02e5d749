"""What a run tells while it goes: plain values, so that a terminal, a notebook or a test can show them as they like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

__all__ = ["Facts", "Progress", "Reporter", "Score"]


@dataclass(frozen=True)
class Facts:
    """What is known before the first step.

    Attributes:
        encoder: the encoder in a few words: source, sizes, device, precision.
        untrained: the encoder's weights are random.
        threads: CPU threads that torch uses.
        folder: the run folder.
    """

    encoder: str
    untrained: bool
    threads: int
    folder: Path


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        steps: environment steps taken, over all envs.
        total: environment steps that the run will take.
        seconds: wall-clock seconds since training began.
        mean_return: mean return of the last 100 finished episodes; None before the first one ends.
        mean_length: mean length of these, in steps.
        faults: environments that failed and were made anew, so far.
        encoder_share: share of the time that the encoder took, from 0 to 1.
        gpu_bytes: of GPU memory in use by torch; None where the encoder is on the CPU.
        earlier: of the steps, those of before the run was resumed.
    """

    steps: int
    total: int
    seconds: float
    mean_return: float | None
    mean_length: float | None = None
    faults: int = 0
    encoder_share: float = 0.0
    gpu_bytes: int | None = None
    earlier: int = 0

    @property
    def frames_per_second(self) -> float:
        """Frames encoded per second; one environment step is one frame."""
        return (self.steps - self.earlier) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Seconds to the end at the mean pace so far."""
        pace = self.frames_per_second
        return (self.total - self.steps) / pace if pace else 0.0


@dataclass(frozen=True)
class Score:
    """Returns of whole episodes, with mean and (population) standard deviation."""

    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)

    @property
    def std(self) -> float:
        """Standard deviation of the returns."""
        return pstdev(self.returns)

    @classmethod
    def of(cls, returns: Sequence[float]) -> Score:
        """A score from any sequence of numbers."""
        return cls(tuple(float(r) for r in returns))

    def to_dict(self) -> dict[str, Any]:
        """JSON values: mean, std and each return."""
        return {"mean": self.mean, "std": self.std, "episodes": len(self.returns), "returns": list(self.returns)}


class Reporter:
    """Receives what a run tells; this base class keeps silent."""

    def starting(self, facts: Facts) -> None:
        """Called once, before the first step."""

    def baseline(self, score: Score) -> None:
        """Called with the random policy's score, before training."""

    def progress(self, progress: Progress) -> None:
        """Called after environment steps of the training, a few times a second, and at its end."""

    def playing(self, what: str, done: int, total: int) -> None:
        """Called when an episode of an evaluation ends: `done` of `total`; `what` says whose episodes these are."""
