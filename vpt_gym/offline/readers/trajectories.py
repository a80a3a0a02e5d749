"""MineStudio's trajectories: LMDB files with the film in one folder and the actions in another, in chunks of some frames.

Source: `minestudio.data.minecraft` of MineStudio 1.1.6, which writes them; a test reads what it wrote.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from vpt_gym.errors import RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.offline import keyboard
from vpt_gym.offline.readers.video import decoded, opening
from vpt_gym.offline.recordings import ACTED, IN_LOSS, Array, Chunk, Recording, failing_as

__all__ = ["TrajectoryRecording", "is_trajectories", "trajectories_in"]

FILMS: Final = ("video", "image")
ACTIONS: Final = "action"
DAMAGE: Final = (pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def is_trajectories(path: Path) -> bool:
    """Whether a folder is one of MineStudio's datasets."""
    return any((path / film).is_dir() and next((path / film).glob("*/data.mdb"), None) for film in FILMS)


def trajectories_in(path: Path) -> list[TrajectoryRecording]:
    """The episodes of a dataset of MineStudio's, sorted by name, with their actions where the dataset has any.

    Raises:
        RecordingError: it is damaged.
    """
    films = {name: place for film in FILMS for name, place in _episodes(path / film).items()}
    actions = _episodes(path / ACTIONS)
    if actions:
        films = {name: place for name, place in films.items() if name in actions}
    return [TrajectoryRecording(path, name, films[name], actions.get(name)) for name in sorted(films)]


class _Place:
    """Where one episode's chunks of one kind lie."""

    def __init__(self, file: Path, number: int, frames: int, length: int) -> None:
        self.file = file
        self.number = number
        self.frames = frames
        self.length = length

    def chunks(self) -> Iterator[bytes]:
        with _opened(self.file) as read:
            for start in range(0, self.frames, self.length):
                content = read(str((self.number, start)))
                if content is None:
                    raise RecordingError(f"{self.file} lacks frames {start} on of episode {self.number}; get it again.")
                yield content


class TrajectoryRecording(Recording):
    """One episode, with VPT's actions where there are any; null actions are marked for the loss to leave out."""

    def __init__(self, path: Path, name: str, film: _Place, actions: _Place | None) -> None:
        self.path = path
        self.name = name
        self.frame_count = film.frames if actions is None else min(film.frames, actions.frames)
        self.action_space = None if actions is None else keyboard.action_space()
        self._film = film
        self._actions = actions

    def digest(self) -> str:
        """Of its chunks, the film's and then the actions'."""
        sha256 = hashlib.sha256()
        for place in (self._film, self._actions):
            for content in () if place is None else place.chunks():
                sha256.update(content)
        return sha256.hexdigest()

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`."""
        columns = {} if self._actions is None else self._steps(self._actions)
        count = self.frame_count or 0
        start = 0
        for content in self._film.chunks():
            for frames, _ in decoded(io.BytesIO(content), self.name, length):
                kept = min(len(frames), count - start)
                if kept <= 0:
                    return
                here = slice(start, start + kept)
                rows = {key: values[here] for key, values in columns.items()}
                yield Chunk(frames[:kept], opening(kept, start), rows)
                start += kept
        if start < count:
            raise RecordingError(f"{self.name} of {self.path} holds {start} of {count} frames; get it again.")

    def _steps(self, place: _Place) -> dict[str, Array]:
        with failing_as(f"{self.name} of {self.path}", *DAMAGE):
            parts = [_unpickled(content) for content in place.chunks()]
            keys = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            actions = keyboard.from_keys(keys, keys["camera"])
        null = (actions[:, 0] == keyboard.NULL_BUTTONS) & (actions[:, 1] == keyboard.NULL_CAMERA)
        count = len(actions)
        return {
            "actions": actions,
            "rewards": np.zeros(count),
            "terminations": np.zeros(count, bool),
            "truncations": np.zeros(count, bool),
            ACTED: np.ones(count, bool),
            IN_LOSS: ~null,
        }


def _episodes(folder: Path) -> dict[str, _Place]:
    """The episodes of all LMDB files in a folder, by name."""
    found = {}
    for file in sorted(each.parent for each in folder.glob("*/data.mdb")):
        with failing_as(str(file), *DAMAGE), _opened(file) as read:
            length = int(_unpickled(read("__chunk_size__")))
            for info in _unpickled(read("__chunk_infos__")):
                found[info["episode"]] = _Place(file, int(info["episode_idx"]), int(info["num_frames"]), length)
    return found


_open: dict[Path, tuple[Any, int]] = {}
_opening = threading.Lock()
"""LMDB lets a process open a file once, and recordings of one file are read side by side: they share it."""


@contextmanager
def _opened(file: Path) -> Iterator[Callable[[str], bytes | None]]:
    """Opens an LMDB file to read: the value of a key, or None."""
    lmdb: Any = import_extra("lmdb", "offline", "Reading MineStudio's trajectories")
    with failing_as(str(file), lmdb.Error, OSError):
        with _opening:
            base, readers = _open.get(file, (None, 0))
            base = base or lmdb.open(str(file), readonly=True, lock=False, max_readers=128)
            _open[file] = base, readers + 1
        try:
            # A transaction for each value: a generator that reads on may do so from another thread.
            yield lambda key: _value(base, key)
        finally:
            with _opening:
                base, readers = _open.pop(file)
                if readers > 1:
                    _open[file] = base, readers - 1
                else:
                    base.close()


def _value(base: Any, key: str) -> bytes | None:
    with base.begin() as transaction:
        found: bytes | None = transaction.get(key.encode())
    return found


def _unpickled(content: bytes | None) -> Any:
    """Numbers, texts, lists, dicts and arrays of a pickle; nothing that could run code."""
    if content is None:
        raise KeyError("a key that every trajectory has is not there")
    return _ArrayUnpickler(io.BytesIO(content)).load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 calls numpy.core by another name; a pickle of either is read by both.
        plain = module.replace("numpy._core", "numpy.core")
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        }
        if (plain, name) not in allowed:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}, which could run code")
        return allowed[plain, name]


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: Any) -> Any:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"its pickle asks for an array of {kind}")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("its pickle asks for objects in an array")
    return np.frombuffer(content, dtype)[0]


def _frombuffer(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> Any:
    return np.frombuffer(content, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
