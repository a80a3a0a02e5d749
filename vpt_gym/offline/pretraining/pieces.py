"""Recordings as rows of pieces: where row i of a batch stops, row i of the next one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vpt_gym.errors import VPTGymError
from vpt_gym.offline.recording import Episodes
from vpt_gym.resize import resize

__all__ = ["Loader", "Pieces", "split"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class _Segment:
    """So many frames of one recording, from `start` on."""

    episode: int
    start: int
    count: int


class Pieces(Dataset[Batch]):
    """Batch k of a schedule that is known from the start, so that a training can go on at any k.

    Recordings of any length fill the rows one after another: a row takes the next recording of a shuffled list when the last
    one ends, in the middle of a piece too. When the list is through, the next round is shuffled anew.
    """

    def __init__(
        self,
        episodes: Sequence[Episodes],
        chosen: Sequence[tuple[int, int]],
        *,
        rows: int,
        length: int,
        batches: int | None,
        seed: int,
        frame_size: int,
        keys: Sequence[str],
    ) -> None:
        """A schedule.

        Args:
            episodes: folders of recordings.
            chosen: which recordings, as numbers of a folder and of an episode in it.
            rows: of a batch.
            length: frames of a piece.
            batches: how many there are; None for one round in order, whose last pieces are padded, for validation.
            seed: of the order.
            frame_size: side in pixels of the frames that the network reads.
            keys: arrays that go along, beside frames and actions.

        Raises:
            VPTGymError: the recordings hold fewer frames than one batch.
        """
        self._episodes, self._chosen, self._length, self._size = episodes, list(chosen), length, frame_size
        self._keys = tuple(keys)
        lengths = [episodes[folder].lengths[index] for folder, index in chosen]
        if sum(lengths) < (rows * length if batches is not None else 1):
            raise VPTGymError(
                f"The recordings hold {sum(lengths)} frames, and one batch has {rows} x {length}: record more, or ask for "
                "fewer rows or shorter pieces."
            )
        self._rows = _schedule(lengths, rows, None if batches is None else batches * length, seed)
        longest = max(sum(segment.count for segment in row) for row in self._rows)
        self.batches = -(-longest // length) if batches is None else batches
        self._ends = [np.cumsum([segment.count for segment in row]) for row in self._rows]
        # Of every row, the recording that it is in: as long as it lasts, it is read once.
        self._open: dict[int, tuple[int, dict[str, NDArray[Any]]]] = {}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        """Batch number `index`.

        Returns:
            `frames` uint8 [B, T, size, size, 3]; `first` bool [B, T]; `mask` float32 [B, T], 0 for padding; `actions` [B, T,
            ...] and whatever else was asked for; `recording` int64 [B], which recording each row ends in.

        Raises:
            VPTGymError: a recording is damaged.
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
        folder, index = self._chosen[recording]
        return str(self._episodes[folder].paths[index])

    def _row(self, row: int, start: int) -> dict[str, NDArray[Any]]:
        taken: list[dict[str, NDArray[Any]]] = []
        number, wanted = int(np.searchsorted(self._ends[row], start, side="right")), self._length
        recording = 0
        while wanted and number < len(self._rows[row]):
            segment = self._rows[row][number]
            inside = start - (int(self._ends[row][number]) - segment.count)
            count = min(wanted, segment.count - inside)
            recording = segment.episode
            arrays = self._read(row, recording)
            begin = segment.start + inside
            part = {name: arrays[name][begin : begin + count] for name in ("frames", "actions", *self._keys)}
            first = np.zeros(count, np.bool_)
            first[0] = inside == 0
            taken.append(part | {"first": first, "mask": np.ones(count, np.float32)})
            start, wanted, number = start + count, wanted - count, number + 1
        if wanted:
            like = taken[-1] if taken else self._like(row)
            padding = {name: np.zeros((wanted, *values.shape[1:]), values.dtype) for name, values in like.items()}
            padding["first"][0] = True
            taken.append(padding)
        joined = {name: np.concatenate([part[name] for part in taken]) for name in taken[0]}
        return joined | {"recording": np.int64(recording)}

    def _like(self, row: int) -> dict[str, NDArray[Any]]:
        arrays = self._read(row, self._rows[row][-1].episode if self._rows[row] else 0)
        part = {name: arrays[name][:0] for name in ("frames", "actions", *self._keys)}
        return part | {"first": np.zeros(0, np.bool_), "mask": np.zeros(0, np.float32)}

    def _read(self, row: int, recording: int) -> dict[str, NDArray[Any]]:
        there = self._open.get(row)
        if there is None or there[0] != recording:
            folder, index = self._chosen[recording]
            arrays = self._episodes[folder].read(index)
            for name in self._keys:
                if name not in arrays:
                    raise VPTGymError(
                        f"{self.name(recording)} has no {name!r}, only {', '.join(sorted(arrays))}: leave out the objective "
                        "that needs it, or record it."
                    )
            there = self._open[row] = (recording, arrays)
        return there[1]


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
            plan[row].append(_Segment(int(recording), 0, lengths[recording]))
            filled[row] += lengths[recording]
        if frames is None:
            return plan


def split(episodes: Sequence[Episodes], share: float, seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Recordings for training and for validation: of every folder its share, one at least, where there are two or more."""
    random = np.random.default_rng(seed)
    training: list[tuple[int, int]] = []
    validation: list[tuple[int, int]] = []
    for folder, found in enumerate(episodes):
        order = random.permutation(len(found.paths))
        held = min(len(order) - 1, max(1, round(share * len(order)))) if share > 0 else 0
        validation += [(folder, int(index)) for index in order[:held]]
        training += [(folder, int(index)) for index in order[held:]]
    return training, validation


class Loader:
    """Batches from number `start` on, made in a worker while the network computes; Lightning keeps its place."""

    def __init__(self, pieces: Pieces, workers: int) -> None:
        self.pieces, self._workers, self._next = pieces, workers, 0

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
        return {"next": getattr(self, "_done", self._next)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next iteration begins there."""
        self._next = int(state["next"]) % self.pieces.batches
