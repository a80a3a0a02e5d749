"""What every reader gives: recordings, and their frames and what was recorded beside them in chunks."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vpt_gym.errors import RecordingError

__all__ = [
    "ACTED",
    "GOAL",
    "IN_LOSS",
    "STANDARD",
    "TIME",
    "Array",
    "Chunk",
    "Recording",
    "digest_of_file",
    "failing_as",
]

Array = npt.NDArray[Any]

ACTED: Final = "acted"
"""Column: whether an action was recorded at this frame; the last frame of an episode may be without."""

GOAL: Final = "goal"
"""Label: what is wanted, as a vector [G], such as `vpt_gym.encoders.text.embed_goal` makes of words."""

IN_LOSS: Final = "in_loss"
"""Label: False where cloning leaves the frame out, such as at VPT's null actions. The memory sees it all the same."""

TIME: Final = "frame_time"
"""Label: when the frame was shown, in seconds from the start of its recording."""

STANDARD: Final = ("actions", "rewards", "terminations", "truncations")
"""Columns that Minari has a place for; what else a recording has becomes a label, in Minari's `infos`."""

HASHED_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of a recording with what belongs to each.

    Attributes:
        frames: uint8 [t, H, W, 3], RGB.
        first: bool [t], True where a frame opens an episode.
        columns: arrays [t, ...] by name: `acted` and `STANDARD` where there are actions (the action, reward and end that
            follow the frame), and labels of any other name. The same names and shapes in every chunk of a recording.
    """

    frames: npt.NDArray[np.uint8]
    first: npt.NDArray[np.bool_]
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.frames)


class Recording(ABC):
    """One recording: a film, or an episode of a dataset, that is read from its start to its end.

    Attributes:
        name: what messages and the dataset call it.
        path: the file or folder that it lies in.
        part: which episode of it, where it holds several.
        frame_count: how many frames it promises; None where only reading tells.
        action_space: of its actions; None where it has none.
    """

    name: str
    path: Path
    part: int = 0
    frame_count: int | None = None
    action_space: gym.Space[Any] | None = None

    @abstractmethod
    def digest(self) -> str:
        """sha256, in hex, of the file that it lies in; the original's mark in a dataset.

        Raises:
            RecordingError: it cannot be read.
        """

    @abstractmethod
    def chunks(self, length: int) -> Iterator[Chunk]:
        """Reads it from its first frame, `length` frames at a time and the rest at last; the first frame is a `first`.

        Raises:
            RecordingError: it is damaged, empty, or not what it should be. What came before is not to be used either.
        """

    def pictures(self, places: list[int]) -> dict[int, npt.NDArray[np.uint8]]:
        """The frames [H, W, 3] at these places, counted from 0, by place.

        Raises:
            RecordingError: it cannot be read, or is shorter.
        """
        found: dict[int, npt.NDArray[np.uint8]] = {}
        start = 0
        for chunk in self.chunks(64):
            found |= {place: chunk.frames[place - start] for place in places if start <= place < start + len(chunk)}
            start += len(chunk)
            if start > max(places):
                return found
        raise RecordingError(f"{self.name} has {start} frames, but frame {max(places)} was asked for.")


def digest_of_file(path: Path) -> str:
    """sha256, in hex, of a file's bytes."""
    sha256 = hashlib.sha256()
    with failing_as(str(path), OSError), path.open("rb") as file:
        while block := file.read(HASHED_AT_ONCE):
            sha256.update(block)
    return sha256.hexdigest()


@contextmanager
def failing_as(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Inside, these errors, which a damaged file makes its library raise, become a RecordingError that names the file."""
    caught: tuple[type[Exception], ...] = (*errors, RecursionError)  # the latter where JSON is nested without end
    try:
        yield
    except RecordingError:  # says more already, and is a ValueError too
        raise
    except caught as error:
        what = str(error).strip() or type(error).__name__
        raise RecordingError(
            f"{name} cannot be read ({what}): get it again from its source, or leave it out."
        ) from error
