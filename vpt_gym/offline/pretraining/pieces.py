"""Recordings as rows of pieces: where row i of a batch stops, row i of the next one goes on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vpt_gym.errors import RecordingError
from vpt_gym.offline.recordings import ACTED, IN_LOSS, Chunk, Recording
from vpt_gym.resize import resize

__all__ = ["Loader", "Pieces", "split"]

Batch = dict[str, Any]

_READ_AT_ONCE = 64
"""Frames that a row reads ahead."""


@dataclass(frozen=True)
class _Segment:
    """One recording in a row, and its length."""

    recording: int
    count: int


class Pieces(Dataset[Batch]):
    """Batch k of a schedule that is known from the start, so that a training can go on at any k.

    Recordings of any length fill the rows one after another: a row takes the next recording of a shuffled list when the last
    one ends, in the middle of a piece too. When the list is through, the next round is shuffled anew.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        rows: int,
        length: int,
        batches: int | None,
        seed: int,
        frame_size: int,
        keys: Sequence[str],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """A schedule.

        Args:
            recordings: with actions.
            rows: of a batch.
            length: frames of a piece.
            batches: how many there are; None for one round in order, whose last pieces are padded, for validation.
            seed: of the order.
            frame_size: side in pixels of the frames that the network reads.
            keys: arrays that go along, beside frames and actions.
            part: which one of how many devices these rows are for; the schedule is over the rows of all.

        Raises:
            RecordingError: the recordings hold fewer frames than one batch.
        """
        self._recordings, self._length, self._size = list(recordings), length, frame_size
        self._keys = tuple(keys)
        lengths = [_frames_of(recording) for recording in recordings]
        number, devices = part
        in_all = rows * devices
        if sum(lengths) < (in_all * length if batches is not None else 1):
            raise RecordingError(
                f"The recordings hold {sum(lengths)} frames, and one batch has {in_all} x {length}: record more, or ask for "
                "fewer rows or shorter pieces."
            )
        plan = _schedule(lengths, in_all, None if batches is None else batches * length, seed)
        self._rows = plan[number * rows : (number + 1) * rows]
        longest = max(sum(segment.count for segment in row) for row in self._rows)
        self.batches = -(-longest // length) if batches is None else batches
        self._ends = [np.cumsum([segment.count for segment in row]) for row in self._rows]
        # Of every row, the recording that it is in and how far it was read: in order, each is read once.
        self._open: dict[int, _Place] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: a process that is started anew, as on macOS, opens its own."""
        return self.__dict__ | {"_open": {}}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        """Batch number `index`.

        Returns:
            `frames` uint8 [B, T, size, size, 3]; `first` bool [B, T]; `mask` float32 [B, T], 0 for padding; `actions` [B, T,
            ...] and whatever else was asked for; `recording` int64 [B], which recording each row ends in.

        Raises:
            RecordingError: a recording is damaged.
        """
        rows = [self._row(row, index * self._length) for row in range(len(self._rows))]
        batch: Batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        frames_bthwc: Tensor = batch["frames"]
        if frames_bthwc.shape[2:4] != (self._size, self._size):
            small = resize(frames_bthwc.flatten(0, 1).numpy(), self._size)
            batch["frames"] = torch.from_numpy(small).view(*frames_bthwc.shape[:2], *small.shape[1:])
        return batch

    def name(self, recording: int) -> str:
        """What messages call a recording of `batch["recording"]`."""
        return self._recordings[recording].name

    def _row(self, row: int, start: int) -> dict[str, NDArray[Any]]:
        taken: list[dict[str, NDArray[Any]]] = []
        number, wanted = int(np.searchsorted(self._ends[row], start, side="right")), self._length
        recording = self._rows[row][-1].recording if self._rows[row] else 0
        while wanted and number < len(self._rows[row]):
            segment = self._rows[row][number]
            inside = start - (int(self._ends[row][number]) - segment.count)
            count = min(wanted, segment.count - inside)
            recording = segment.recording
            taken.append(self._read(row, recording, inside, count))
            start, wanted, number = start + count, wanted - count, number + 1
        if wanted:
            like = taken[-1] if taken else self._read(row, recording, 0, 1)
            padding = {name: np.zeros((wanted, *values.shape[1:]), values.dtype) for name, values in like.items()}
            padding["first"][0] = True
            taken.append(padding)
        joined = {name: np.concatenate([part[name] for part in taken]) for name in taken[0]}
        return joined | {"recording": np.int64(recording)}

    def _read(self, row: int, recording: int, start: int, count: int) -> dict[str, NDArray[Any]]:
        place = self._open.get(row)
        if place is None or place.recording is not self._recordings[recording] or place.at > start:
            if place is not None:
                place.close()
            place = self._open[row] = _Place(self._recordings[recording])
        chunk = place.read(start, count)
        # Who was not made to err has played what it wanted.
        columns = {"played": chunk.columns["actions"], **chunk.columns}
        for name in self._keys:
            if name not in columns:
                raise RecordingError(
                    f"{self.name(recording)} has no {name!r}, only {', '.join(sorted(columns))}: leave out the objective that "
                    "needs it, or record it."
                )
        # What cloning leaves out, and the last frame of an episode without an action, stay in the memory alone.
        mask = columns[ACTED].astype(np.float32) * columns.get(IN_LOSS, np.ones(count, bool))
        kept = {name: columns[name] for name in ("actions", *self._keys)}
        return {"frames": chunk.frames, "first": chunk.first, "mask": mask.astype(np.float32), **kept}


class _Place:
    """How far a recording has been read."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.at = 0
        self._chunks = _generator(recording)
        self._rest: Chunk | None = None

    def close(self) -> None:
        """Lets go of the file."""
        self._chunks.close()

    def read(self, start: int, count: int) -> Chunk:
        """Frames `start` to `start + count`, of which the first is not behind the place.

        Raises:
            RecordingError: the recording is damaged, or shorter than it promised.
        """
        taken: list[Chunk] = []
        while count:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._chunks, None)
                if self._rest is None:
                    raise RecordingError(
                        f"{self.recording.name} ends after {self.at} frames, before it should: get it again."
                    )
            skipped = min(start - self.at, len(self._rest))
            part = _part(self._rest, skipped, min(skipped + count, len(self._rest)))
            self._rest = _part(self._rest, skipped + len(part), len(self._rest))
            self.at += skipped + len(part)
            if len(part):
                taken.append(part)
            start, count = start + len(part), count - len(part)
        names = taken[0].columns
        return Chunk(
            np.concatenate([part.frames for part in taken]),
            np.concatenate([part.first for part in taken]),
            {name: np.concatenate([part.columns[name] for part in taken]) for name in names},
        )


def _generator(recording: Recording) -> Generator[Chunk, None, None]:
    yield from recording.chunks(_READ_AT_ONCE)


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    columns = {name: values[start:stop] for name, values in chunk.columns.items()}
    return Chunk(chunk.frames[start:stop], chunk.first[start:stop], columns)


def _frames_of(recording: Recording) -> int:
    if recording.frame_count is not None:
        return recording.frame_count
    return sum(len(chunk) for chunk in recording.chunks(_READ_AT_ONCE))


def _schedule(lengths: Sequence[int], rows: int, frames: int | None, seed: int) -> list[list[_Segment]]:
    """Which recordings each row goes through: the row that is shortest so far takes the next one."""
    random = np.random.default_rng(seed)
    plan: list[list[_Segment]] = [[] for _ in range(rows)]
    filled = np.zeros(rows, np.int64)
    while True:
        order = np.arange(len(lengths)) if frames is None else random.permutation(len(lengths))
        for recording in order:
            row = int(np.argmin(filled))
            if frames is not None and filled[row] >= frames:
                return plan
            plan[row].append(_Segment(int(recording), lengths[recording]))
            filled[row] += lengths[recording]
        if frames is None:
            return plan


def split(groups: Sequence[Sequence[Recording]], share: float, seed: int) -> tuple[list[Recording], list[Recording]]:
    """Recordings for training and for validation: of every group its share, one at least, where there are two or more."""
    random = np.random.default_rng(seed)
    training: list[Recording] = []
    validation: list[Recording] = []
    for group in groups:
        order = random.permutation(len(group))
        held = min(len(order) - 1, max(1, round(share * len(order)))) if share > 0 else 0
        validation += [group[index] for index in order[:held]]
        training += [group[index] for index in order[held:]]
    return training, validation


class Loader:
    """Batches from number `start` on, made in a worker while the network computes; Lightning keeps its place."""

    def __init__(self, pieces: Pieces, workers: int) -> None:
        self.pieces, self._workers = pieces, workers
        self._next = self._done = 0

    def __len__(self) -> int:
        return self.pieces.batches

    def __iter__(self) -> Iterator[Batch]:
        start, self._next = self._next, 0
        order = range(start, self.pieces.batches)
        loader: DataLoader[Batch] = DataLoader(
            self.pieces,
            batch_size=None,
            sampler=order,
            # One worker reads whole rows in order; two would each read half of every row's recordings.
            num_workers=min(1, self._workers),
            prefetch_factor=4 if self._workers else None,
        )
        for index, batch in zip(order, loader, strict=True):
            self._done = index + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches have been handed out."""
        return {"next": self._done}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next iteration begins there."""
        self._next = self._done = int(state["next"]) % self.pieces.batches
