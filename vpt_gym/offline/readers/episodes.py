"""Episodes as `.npz`, the form that anybody's script can write."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.errors import RecordingError
from vpt_gym.offline.recordings import ACTED, STANDARD, Array, Chunk, Recording, digest_of_file, failing_as
from vpt_gym.offline.spaces import inferred_space, space_of

__all__ = ["EpisodeRecording"]

DAMAGE: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class EpisodeRecording(Recording):
    """An `.npz` with `frames` uint8 [T, H, W, 3] and, where there are any, per frame:

    - `actions` [T, ...] or [T - 1, ...]: whole numbers, or floating-point ones; with `action_space`, JSON as
      `minari.serialization.serialize_space` writes it, where the actions alone do not tell;
    - `rewards`, `terminations`, `truncations`, as long as the actions;
    - `first`, bool [T], where the file holds several episodes one after the other;
    - any other array of T numbers or vectors: a label.

    Frames are read piece by piece, compressed or not.

    Args:
        path: of the file.
        name: what it is called.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        with self._open() as archive:
            shapes = {key: _header(archive, key)[0] for key in _keys(archive)}
            self.action_space = self._space() if "actions" in shapes else None
        if "frames" not in shapes or len(shapes["frames"]) != 4 or not shapes["frames"][0]:
            came = (
                f"of shape {shapes['frames']}" if "frames" in shapes else f"not among {', '.join(shapes) or 'nothing'}"
            )
            raise RecordingError(f"{name} must hold `frames`, uint8 [T, height, width, 3], but they are {came}.")
        self.frame_count = shapes["frames"][0]

    def digest(self) -> str:
        """As `Recording.digest`."""
        return digest_of_file(self.path)

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`."""
        columns, first = self._columns()
        with self._open() as archive, archive.open("frames.npy") as file:
            shape, dtype = _read_header(file)
            if dtype != np.uint8 or shape[3] != 3:
                raise RecordingError(f"{self.name}: `frames` must be uint8 [T, height, width, 3], not {dtype} {shape}.")
            size = int(np.prod(shape[1:]))
            for start in range(0, shape[0], length):
                part = slice(start, min(start + length, shape[0]))
                content = file.read((part.stop - start) * size)
                if len(content) < (part.stop - start) * size:
                    raise RecordingError(f"{self.name} is cut off; get it again, or leave it out.")
                frames = np.frombuffer(content, np.uint8).reshape(-1, *shape[1:])
                yield Chunk(frames, first[part], {key: values[part] for key, values in columns.items()})

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with failing_as(self.name, *DAMAGE), zipfile.ZipFile(self.path) as archive:
            yield archive

    @contextmanager
    def _arrays(self) -> Iterator[Any]:
        # Opened here, because NumPy leaves the file open where the archive turns out to be damaged.
        with (
            failing_as(self.name, *DAMAGE),
            self.path.open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            yield arrays

    def _columns(self) -> tuple[dict[str, Array], Array]:
        """Everything but the frames, one row a frame, and `first`."""
        count = self.frame_count or 0
        with self._arrays() as arrays:
            columns = {key: arrays[key] for key in arrays.files if key not in ("frames", "action_space")}
        first = np.asarray(columns.pop("first", np.arange(count) == 0), bool)
        if first.shape != (count,) or not first[0]:
            raise RecordingError(f"{self.name}: `first` must be bool [{count}] and True at the first frame.")
        acted = len(columns["actions"]) if "actions" in columns else 0
        for key, values in columns.items():
            lengths = {acted} if key in STANDARD else {count}
            if values.ndim == 0 or len(values) not in lengths or (key == "actions" and acted not in (count, count - 1)):
                raise RecordingError(
                    f"{self.name}: `{key}` has shape {values.shape}, but there are {count} frames and {acted} actions; an "
                    "episode has one row for each frame, of what follows an action one for each action."
                )
            columns[key] = padded(values, count)
        if acted:
            columns[ACTED] = np.arange(count) < acted
            columns.setdefault("rewards", np.zeros(count))
            for key in ("terminations", "truncations"):
                columns.setdefault(key, np.zeros(count, bool))
        return columns, first

    def _space(self) -> gym.Space[Any]:
        with self._arrays() as arrays:
            if "action_space" in arrays.files:
                return space_of(json.loads(str(arrays["action_space"])), self.name)
            return inferred_space(arrays["actions"], self.name)


def padded(values: Array, count: int) -> Array:
    """Rows of zeros behind, up to `count`."""
    return np.pad(values, [(0, count - len(values))] + [(0, 0)] * (values.ndim - 1))


def _keys(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def _header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], Any]:
    with archive.open(f"{key}.npy") as file:
        return _read_header(file)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Any]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("its arrays lie in Fortran's order; save numpy.ascontiguousarray of them")
    return shape, dtype
