"""Mini-batches of frames, streamed from a dataset on disk within bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.recordings import IN_LOSS, Array

__all__ = ["Frames", "split_episodes"]

FRAMES_PER_READ: Final = 512
"""Most frames of an episode that are read in one go."""

POOL_BYTES: Final = 256 << 20
"""Of latents that are mixed with one another; as much again is read ahead meanwhile."""

Pool = dict[str, Array]
"""Columns of frames by name, as long as a pool; less of them may be in use."""


class Frames:
    """The frames of some episodes, in batches.

    An epoch reads pieces of episodes in random order into a pool and takes batches out of the shuffled pool: reading stays
    sequential in the small and memory bounded, and the frames of a batch come from all over the dataset.

    Args:
        dataset: of latents.
        episodes: numbers of those that count.
        names: columns to read beside the latents; one row for each frame that has an action, where `acted`.
        acted: only frames with an action that is in the loss.
        stack: latents of so many frames side by side, the newest last, zeros before an episode's start: as VecFrameStack does.
        pool_bytes: of latents that are shuffled together.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        episodes: Sequence[int],
        names: Sequence[str],
        *,
        acted: bool,
        stack: int = 1,
        pool_bytes: int = POOL_BYTES,
    ) -> None:
        self.dataset = dataset
        self.names = ("latents", *names)
        self.stack = stack
        self._masked = acted and IN_LOSS in dataset.labels
        self._spans = []
        for number in episodes:
            episode = dataset.episodes[number]
            count = episode.steps if acted else episode.frames
            for start in range(0, count, FRAMES_PER_READ):
                self._spans.append((number, start, min(start + FRAMES_PER_READ, count)))
        width = dataset.latent_size * np.dtype(dataset.dtype).itemsize * stack
        self.pool = max(1, pool_bytes // width)

    @property
    def count(self) -> int:
        """Frames, those outside the loss included."""
        return sum(stop - start for _, start, stop in self._spans)

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[dict[str, Array]]:
        """One pass: dicts of arrays [size, ...] by name, the last one smaller; in order where there is no `rng`."""
        # One pool is used while the next is filled. Both are made once: fresh memory of such a size costs more than reading.
        free: queue.Queue[Pool | None] = queue.Queue()
        for _ in range(2):
            free.put({})
        with _ahead(self._pools(size, rng, free)) as pools:
            try:
                for pool, count in pools:
                    order = np.arange(count) if rng is None else rng.permutation(count)
                    for start in range(0, count, size):
                        part = order[start : start + size]
                        yield {key: values.take(part, axis=0) for key, values in pool.items()}
                    free.put(pool)
            finally:
                free.put(None)  # the reader may wait for one, and is to end

    def _pools(
        self, size: int, rng: np.random.Generator | None, free: queue.Queue[Pool | None]
    ) -> Iterator[tuple[Pool, int]]:
        """Pools with the number of their frames: of whole batches, but for the last."""
        room = max(1, self.pool // size) * size
        spans = self._spans if rng is None else [self._spans[place] for place in rng.permutation(len(self._spans))]
        pool, held = free.get(), 0
        assert pool is not None
        for number, start, stop in spans:
            rows = self.read(number, start, stop)
            count, done = len(rows["latents"]), 0
            while done < count:
                taken = min(count - done, room - held)
                for key, values in rows.items():
                    if key not in pool:
                        pool[key] = np.empty((min(room, self.count), *values.shape[1:]), values.dtype)
                    pool[key][held : held + taken] = values[done : done + taken]
                done, held = done + taken, held + taken
                if held == room:
                    yield pool, held
                    pool, held = free.get(), 0
                    if pool is None:
                        return
        if held:
            yield pool, held

    def read(self, number: int, start: int, stop: int) -> dict[str, Array]:
        """Some frames of an episode, without those outside the loss."""
        names = (*self.names, IN_LOSS) if self._masked else self.names
        rows = dict(zip(names, self.dataset.read(number, names, start, stop), strict=True))
        if self.stack > 1:
            before = max(0, start - self.stack + 1)
            earlier_td = self.dataset.read(number, ["latents"], before, start)[0]
            rows["latents"] = _stacked(earlier_td, rows["latents"], self.stack)
        if self._masked:
            kept = rows.pop(IN_LOSS).astype(bool)
            rows = {key: values[kept] for key, values in rows.items()}
        return rows


def split_episodes(dataset: LatentDataset, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of episodes to train on, and to validate on: the given share of them, one at least where there are two.

    Whole episodes, since frames of one are too alike to tell whether something holds for others.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    held = min(max(1, round(share * len(order))), len(order) - 1) if share else 0
    return sorted(int(number) for number in order[held:]), sorted(int(number) for number in order[:held])


def _stacked(earlier_td: Array, latents_td: Array, stack: int) -> Array:
    """[T, D] and what came before it -> [T, stack * D]."""
    missing = stack - 1 - len(earlier_td)
    padding = np.zeros((missing, latents_td.shape[1]), latents_td.dtype)
    all_td = np.concatenate([padding, earlier_td, latents_td])
    return np.concatenate([all_td[place : place + len(latents_td)] for place in range(stack)], axis=1)


@contextmanager
def _ahead(source: Iterator[tuple[Pool, int]]) -> Iterator[Iterator[tuple[Pool, int]]]:
    """Takes from an iterator in a thread, one ahead."""
    found: queue.Queue[tuple[Pool, int] | BaseException | None] = queue.Queue(1)
    unwanted = threading.Event()

    def put(item: tuple[Pool, int] | BaseException | None) -> None:
        while not unwanted.is_set():
            try:
                found.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def fill() -> None:
        try:
            for item in source:
                put(item)
                if unwanted.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            put(error)

    def take() -> Iterator[tuple[Pool, int]]:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=fill, name="reading", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        unwanted.set()
        thread.join()
