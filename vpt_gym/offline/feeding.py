"""Recordings laid into the rows of one batch, decoded in threads ahead of the network.

A row is an endless strip of frames: where a recording ends the next one begins, and `first` marks the border, which is all
that a stream needs. So the batch stays full, however long the recordings are, until there are none left.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import numpy.typing as npt

from vpt_gym.errors import RecordingError
from vpt_gym.offline.recordings import Chunk, Recording
from vpt_gym.resize import resize

__all__ = ["Ended", "Feed", "Passed", "Piece", "Strip"]

AHEAD = 2
"""Windows that are decoded while the network works on one."""

LOOK_SECONDS = 0.1
"""How often a thread that waits for room looks whether it is still wanted."""


@dataclass(frozen=True)
class Piece:
    """Part of a strip: frames `start` to `stop` of it belong to this recording."""

    recording: Recording
    key: str
    start: int
    stop: int
    chunk: Chunk


@dataclass(frozen=True)
class Ended:
    """A recording has been read to its end; or not, because of `error`."""

    recording: Recording
    key: str
    error: RecordingError | None = None


@dataclass(frozen=True)
class Passed:
    """A recording that need not be read: it is in the dataset already."""

    recording: Recording


@dataclass
class Strip:
    """The next frames of one row.

    Attributes:
        frames: uint8 [t, size, size, 3].
        first: bool [t].
        events: what lies in it and happened on the way, in order.
    """

    frames: npt.NDArray[np.uint8]
    first: npt.NDArray[np.bool_]
    events: list[Piece | Ended | Passed] = field(default_factory=list)


class Feed:
    """Windows of strips, one strip a row, decoded ahead in threads; a context manager, to be iterated once.

    Args:
        recordings: what to read, in order; taken by whichever row has room.
        rows: how many are read side by side.
        length: frames of each row in a window.
        size: side in pixels that frames are resized to.
        is_done: whether the recording of a key (digest and part) need not be read.
        threads: that decode.
    """

    def __init__(
        self,
        recordings: Iterator[Recording],
        *,
        rows: int,
        length: int,
        size: int,
        is_done: Callable[[str], bool],
        threads: int,
    ) -> None:
        source = _Source(recordings, is_done)
        self._rows = [_Row(source, length, size) for _ in range(rows)]
        self._threads = threads
        self._windows: queue.Queue[list[Strip] | BaseException | None] = queue.Queue(AHEAD)
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwanted.set()
        self._thread.join()

    def __iter__(self) -> Iterator[list[Strip]]:
        while (window := self._windows.get()) is not None:
            if isinstance(window, BaseException):
                raise window
            yield window

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(self._threads, "decoding") as pool:
                while not self._unwanted.is_set():
                    window = list(pool.map(_Row.take, self._rows))
                    if not any(len(strip.first) or strip.events for strip in window):
                        break
                    self._put(window)
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the windows are taken
            self._put(error)

    def _put(self, window: list[Strip] | BaseException | None) -> None:
        while not self._unwanted.is_set():
            try:
                self._windows.put(window, timeout=LOOK_SECONDS)
            except queue.Full:
                continue
            return


class _Source:
    """Hands out recordings to rows, each once, and passes over what is done."""

    def __init__(self, recordings: Iterator[Recording], is_done: Callable[[str], bool]) -> None:
        self._recordings = recordings
        self._is_done = is_done
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    def next(self, events: list[Piece | Ended | Passed]) -> tuple[Recording, str] | None:
        while True:
            with self._lock:
                recording = next(self._recordings, None)
            if recording is None:
                return None
            try:
                key = f"{recording.digest()}-{recording.part}"
            except RecordingError as error:
                events.append(Ended(recording, "", error))
                continue
            with self._lock:
                again = key in self._taken
                self._taken.add(key)
            if again or self._is_done(key):
                events.append(Passed(recording))
                continue
            return recording, key


class _Row:
    def __init__(self, source: _Source, length: int, size: int) -> None:
        self._source = source
        self._length = length
        self._size = size
        self._open: tuple[Recording, str, Iterator[Chunk]] | None = None
        self._rest: Chunk | None = None

    def take(self) -> Strip:
        """The next `length` frames of the row; fewer when there are no more recordings."""
        events: list[Piece | Ended | Passed] = []
        chunks: list[Chunk] = []
        filled = 0
        while filled < self._length:
            if self._open is None:
                opened = self._source.next(events)
                if opened is None:
                    break
                self._open = (*opened, opened[0].chunks(self._length))
            chunk = self._next_chunk(self._length - filled, events)
            if chunk is not None:
                recording, key, _ = self._open
                events.append(Piece(recording, key, filled, filled + len(chunk), chunk))
                chunks.append(chunk)
                filled += len(chunk)
        if not chunks:
            empty = np.zeros((0, self._size, self._size, 3), np.uint8)
            return Strip(empty, np.zeros(0, bool), events)
        return Strip(
            np.concatenate([chunk.frames for chunk in chunks]),
            np.concatenate([chunk.first for chunk in chunks]),
            events,
        )

    def _next_chunk(self, most: int, events: list[Piece | Ended | Passed]) -> Chunk | None:
        """Up to `most` frames of the open recording; None when it ended, which is noted."""
        assert self._open is not None
        recording, key, chunks = self._open
        chunk = self._rest
        self._rest = None
        if chunk is None:
            try:
                chunk = next(chunks, None)
            except RecordingError as error:
                events.append(Ended(recording, key, error))
                self._open = None
                return None
            if chunk is None:
                events.append(Ended(recording, key))
                self._open = None
                return None
            chunk = Chunk(resize(chunk.frames, self._size), chunk.first, chunk.columns)
        if len(chunk) > most:
            self._rest = _cut(chunk, slice(most, None))
            chunk = _cut(chunk, slice(most))
        return chunk


def _cut(chunk: Chunk, part: slice) -> Chunk:
    columns = {key: values[part] for key, values in chunk.columns.items()}
    return Chunk(chunk.frames[part], chunk.first[part], columns)
