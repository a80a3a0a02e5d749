"""Mini-batches of frames, streamed from a dataset on disk within bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.recordings import IN_LOSS, Array

__all__ = ["Frames", "one_thread_less", "split_episodes"]

FRAMES_PER_READ: Final = 512
"""Most frames of an episode that are read in one go."""

POOL_BYTES: Final = 256 << 20
"""Of latents that are mixed with one another."""

Columns = dict[str, Array]
"""Something of every frame, by name: arrays [frames, ...]."""


class Frames:
    """The frames of some episodes, in batches.

    An epoch reads pieces of episodes in random order into a pool, and takes the frames of a batch out of random places of it:
    reading stays sequential in the small and memory bounded, and the frames of a batch come from all over the dataset.

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

    def batches(self, size: int, rng: np.random.Generator | None = None, *, reuse: bool = False) -> Iterator[Columns]:
        """One pass: dicts of arrays [size, ...] by name, the last one smaller; in order where there is no `rng`.

        Batches are made one ahead, in a thread. Their latents are float32 where `reuse`, in memory that is written over once
        the next batch is asked for: fresh memory of this size costs more than reading.
        """
        batches = self._in_order(size) if rng is None else self._shuffled(size, rng)
        with _ahead(_in_turns(batches) if reuse else batches) as ahead:
            yield from ahead

    def _in_order(self, size: int) -> Iterator[Columns]:
        parts: list[Columns] = []
        missing = size
        for span in self._spans:
            rows = self.read(*span)
            while len(rows["latents"]):
                parts.append({key: values[:missing] for key, values in rows.items()})
                rows = {key: values[missing:] for key, values in rows.items()}
                missing -= len(parts[-1]["latents"])
                if not missing:
                    yield _joined(parts)
                    parts, missing = [], size
        if parts:
            yield _joined(parts)

    def _shuffled(self, size: int, rng: np.random.Generator) -> Iterator[Columns]:
        """Batches out of random places of a full pool; what is read next goes where they were."""
        room = min(max(self.pool, size), self.count)
        pool: Columns = {}
        empty = np.arange(room)  # places that hold nothing, the next to be filled first
        for place in rng.permutation(len(self._spans)):
            rows = self.read(*self._spans[place])
            if not pool:
                pool = {key: np.empty((room, *values.shape[1:]), values.dtype) for key, values in rows.items()}
            done, count = 0, len(rows["latents"])
            while done < count:
                filled = empty[: count - done]
                for key, values in rows.items():
                    pool[key][filled] = values[done : done + len(filled)]
                done, empty = done + len(filled), empty[len(filled) :]
                if not len(empty):
                    empty = rng.choice(room, min(size, room), replace=False)
                    yield {key: values[empty] for key, values in pool.items()}
        rest = rng.permutation(np.setdiff1d(np.arange(room), empty))
        for start in range(0, len(rest), size):
            yield {key: values[rest[start : start + size]] for key, values in pool.items()}

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


def _joined(parts: list[Columns]) -> Columns:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _in_turns(batches: Iterator[Columns]) -> Iterator[Columns]:
    """The same with float32 latents in three places by turns: one is in use, one waits, one is written."""
    places: list[torch.Tensor] = []
    for number, batch in enumerate(batches):
        latents_nd = torch.from_numpy(batch["latents"])
        if len(places) < 3:
            places.append(torch.empty(latents_nd.shape))  # none that follows is larger
        # torch converts float16 ten times as fast as NumPy.
        floats_nd = places[number % 3][: len(latents_nd)].copy_(latents_nd)
        yield {**batch, "latents": floats_nd.numpy()}


@contextmanager
def one_thread_less() -> Iterator[None]:
    """Leaves a core to the thread that reads: threads of torch that wait for one another lose more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ahead(source: Iterator[Columns]) -> Iterator[Iterator[Columns]]:
    """Takes from an iterator in a thread, one ahead."""
    found: queue.Queue[Columns | BaseException | None] = queue.Queue(1)
    unwanted = threading.Event()

    def put(item: Columns | BaseException | None) -> None:
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

    def take() -> Iterator[Columns]:
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
