"""How a work on recordings is going, and what it came to; free of torch, like the records of what was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpt_gym.encoders import Encoder
    from vpt_gym.errors import RecordingError

__all__ = ["CloneReporter", "CloneResult", "EncodeReporter", "EncodeResult", "Epoch"]


@dataclass
class EncodeResult:
    """What an encoding came to.

    Attributes:
        path: the dataset's folder; None where nothing could be encoded, or the work was stopped.
        encoded: how many recordings were encoded now.
        frames: how many frames they had.
        passed: how many needed no encoding, because they were done.
        failed: names of those that were left out, and why.
        stopped: whether it was stopped before the end; the same call goes on from there.
        seconds: that it took, without loading.
    """

    path: Path | None
    encoded: int = 0
    frames: int = 0
    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0


class EncodeReporter:
    """Is told how far it is; does nothing itself."""

    def starting(self, recordings: int, frames: int | None, encoder: Encoder) -> None:
        """So many recordings, of so many frames where all of them promise a number."""

    def progress(self, frames: int, passed: int, seconds: float) -> None:
        """So many frames have been encoded, and so many passed over, since the start."""

    def failed(self, name: str, error: RecordingError) -> None:
        """A recording is left out."""


@dataclass(frozen=True)
class Epoch:
    """How one pass over the demonstrations went.

    Attributes:
        number: counted from 1.
        loss: on the frames that were trained on, on the way.
        validation_loss: on those held out, at its end; where none are, `loss`.
        measures: accuracies and errors on those held out, by name.
        seconds: since the start.
    """

    number: int
    loss: float
    validation_loss: float
    measures: dict[str, float]
    seconds: float


@dataclass
class CloneResult:
    """What a cloning came to.

    Attributes:
        frames: that were trained on in each epoch, those outside the loss included.
        validation_frames: that were held out.
        epochs: in order.
        stopped: whether it was stopped by Ctrl-C.
        seconds: that it took.
    """

    frames: int
    validation_frames: int
    epochs: list[Epoch] = field(default_factory=list)
    stopped: bool = False
    seconds: float = 0.0

    @property
    def best(self) -> Epoch:
        """The epoch with the least loss on what was held out: as it left the policy, so the policy is."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


class CloneReporter:
    """Is told how each epoch went; does nothing itself."""

    def epoch(self, epoch: Epoch, *, better: bool) -> None:
        """An epoch is over; `better` than all before it."""
