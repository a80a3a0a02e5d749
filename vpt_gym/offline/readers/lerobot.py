"""Episodes of LeRobot datasets, versions 2.0, 2.1 and 3.0: parquet for numbers, films or pictures inside parquet for cameras.

Read from the folder itself, as its `meta/info.json` describes it, so that the package `lerobot` need not be installed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from PIL import Image

from vpt_gym.errors import RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.offline.readers.video import opening
from vpt_gym.offline.recordings import ACTED, TIME, Array, Chunk, Recording, digest_of_file, failing_as
from vpt_gym.offline.spaces import inferred_space

__all__ = ["LeRobotRecording", "is_lerobot", "lerobot_in"]

DAMAGE: Final = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)

STANDING: Final = {"next.reward": "rewards", "next.done": "terminations", "next.truncated": "truncations"}
"""LeRobot's names of what follows an action, and Minari's."""

NUMBERS: Final = (
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""Types of features that are numbers; there are texts, pictures and films beside them."""

BOOKKEEPING: Final = ("index", "episode_index", "frame_index", "timestamp")
"""Columns that every dataset has; the last becomes the time of the frame, the others say where a row is."""


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset, or a path names a camera of one: the dataset's folder and the camera's key."""
    return _info_of(path).is_file() or (not path.exists() and _info_of(path.parent).is_file())


def lerobot_in(path: Path) -> list[LeRobotRecording]:
    """The episodes of a dataset.

    Raises:
        RecordingError: it is damaged, of a version that is not read, has no camera or several of which none is named, or its
            actions are no numbers.
    """
    root, camera = (path, None) if _info_of(path).is_file() else (path.parent, path.name)
    with failing_as(str(root), *DAMAGE):
        info: dict[str, Any] = json.loads(_info_of(root).read_text(encoding="utf-8"))
        version, features = str(info["codebase_version"]), dict(info["features"])
        if version.partition(".")[0] not in ("v2", "v3"):
            raise RecordingError(
                f"{root} is a LeRobot dataset of version {version}, and those from v2.0 to v3.0 are read: convert it with "
                "lerobot's own scripts."
            )
        camera = _camera_of(root, features, camera)
        episodes = _episodes_v2(root, info, camera) if version.startswith("v2") else _episodes_v3(root, info, camera)
        return [LeRobotRecording(path, root.name, each, camera, features, float(info["fps"])) for each in episodes]


@dataclass(frozen=True)
class _Episode:
    """Where an episode lies: `length` rows of a parquet file, and of a film from a second on; `film` None for pictures."""

    number: int
    length: int
    data: Path
    film: Path | None
    begin: float


class LeRobotRecording(Recording):
    """One episode, seen by one camera; all other features that are numbers are labels.

    Args:
        path: of the dataset, or of a camera in it.
        dataset: what it is called.
        episode: where it lies.
        camera: its key.
        features: of the dataset, as its `info.json` has them.
        rate: frames per second.
    """

    def __init__(
        self, path: Path, dataset: str, episode: _Episode, camera: str, features: dict[str, Any], rate: float
    ) -> None:
        self.path = path
        self.part = episode.number
        self.name = f"{dataset}/episode {episode.number}"
        self.frame_count = episode.length
        self._episode, self._camera, self._rate = episode, camera, rate
        self._shapes = {
            name: tuple(int(side) for side in feature["shape"])
            for name, feature in features.items()
            if feature["dtype"] in NUMBERS
        }
        self.action_space = self._space(features)

    def digest(self) -> str:
        """Of the files that it lies in; cameras of one file are different recordings."""
        files = [file for file in (self._episode.data, self._episode.film) if file is not None]
        digests = [_digest_of_state(file, *_state_of(file)) for file in files]
        return hashlib.sha256("".join([self._camera, *digests]).encode()).hexdigest()

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`."""
        start, count = 0, self._episode.length
        columns = self._columns()
        for frames in self._pictures(length) if self._episode.film is None else self._film(self._episode.film, length):
            here = slice(start, start + len(frames))
            yield Chunk(frames, opening(len(frames), start), {name: values[here] for name, values in columns.items()})
            start += len(frames)
        if start != count or not start:
            raise RecordingError(f"{self.name} holds {start} of {count} frames; get it again, or leave it out.")

    def _rows(self, columns: list[str], at_once: int) -> Any:
        """The episode's rows, read only when they are asked for."""
        datasets: Any = import_extra("pyarrow.dataset", "offline", "Reading a LeRobot dataset")
        dataset = datasets.dataset(str(self._episode.data), format="parquet")
        own = datasets.field("episode_index") == self._episode.number
        return dataset.scanner(columns=columns, filter=own, batch_size=at_once)

    def _read(self, names: list[str]) -> dict[str, Array]:
        with failing_as(self.name, *DAMAGE):
            table = self._rows(names, self._episode.length).to_table()
            if table.num_rows != self._episode.length:
                raise RecordingError(
                    f"{self.name} has {table.num_rows} rows, and {self._episode.length} by the dataset's meta: get it again, "
                    "or leave it out."
                )
            return {name: _numbers(table[name].combine_chunks(), self._shapes[name]) for name in names}

    def _columns(self) -> dict[str, Array]:
        """Everything but the pictures, one row a frame."""
        columns = self._read([name for name in self._shapes if name not in BOOKKEEPING[:3]])
        columns[TIME] = columns.pop("timestamp").astype(np.float64)
        if self.action_space is None:
            return columns
        count = self._episode.length
        actions = columns.pop("action")
        columns["actions"] = actions.astype(np.float32) if actions.dtype.kind == "f" else actions.astype(np.int64)
        for name, standing in STANDING.items():
            kind = np.float64 if standing == "rewards" else np.bool_
            columns[standing] = columns.pop(name, np.zeros(count)).astype(kind)
        columns[ACTED] = np.ones(count, bool)
        return columns

    def _space(self, features: dict[str, Any]) -> gym.Space[Any] | None:
        if "action" not in features:
            return None
        if "action" not in self._shapes:
            raise RecordingError(
                f"{self.name} has actions of type {features['action']['dtype']}, and numbers are read: make numbers of them, "
                "or take the feature `action` out for latents alone."
            )
        if np.dtype(features["action"]["dtype"]).kind == "f":
            return inferred_space(np.zeros((0, *_row(self._shapes["action"])), np.float32), self.name)
        return inferred_space(self._read(["action"])["action"], self.name)

    def _pictures(self, length: int) -> Iterator[npt.NDArray[np.uint8]]:
        with failing_as(self.name, *DAMAGE, Image.DecompressionBombError):
            for batch in self._rows([self._camera], length).to_reader():
                for start in range(0, batch.num_rows, length):
                    contents = [each["bytes"] for each in batch.column(0)[start : start + length].to_pylist()]
                    yield np.stack([_decoded(content) for content in contents])

    def _film(self, film: Path, length: int) -> Iterator[npt.NDArray[np.uint8]]:
        """The frames of the episode, which may be one of many in a film: from its first on, as many as it has."""
        av: Any = import_extra("av", "offline", "Reading a film")
        frames: list[Any] = []
        left = self._episode.length
        earliest = self._episode.begin - 0.5 / self._rate
        with failing_as(self.name, av.error.FFmpegError, OSError, IndexError), av.open(str(film)) as container:
            stream = container.streams.video[0]
            if self._episode.begin:
                # To the last frame before it that can be decoded by itself.
                container.seek(int(self._episode.begin / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None and frame.time < earliest:
                    continue
                frames.append(frame.to_ndarray(format="rgb24"))
                left -= 1
                if len(frames) == length or not left:
                    yield np.stack(frames)
                    frames = []
                if not left:
                    return
        if frames:
            yield np.stack(frames)


def _info_of(root: Path) -> Path:
    return root / "meta" / "info.json"


def _camera_of(root: Path, features: dict[str, Any], asked: str | None) -> str:
    cameras = [
        name
        for name, feature in features.items()
        if feature["dtype"] in ("video", "image")
        # Depth is no picture that a network of colours has seen.
        and not any((feature.get("info") or {}).get(key) for key in ("is_depth_map", "video.is_depth_map"))
    ]
    if asked in cameras:
        return str(asked)
    if asked is None and len(cameras) == 1:
        return cameras[0]
    if not cameras:
        raise RecordingError(f"{root} has no camera, only {', '.join(features) or 'nothing'}: leave it out.")
    came = "it has several" if asked is None else f"{asked} is none of them"
    raise RecordingError(
        f"{root} is looked at by one camera, but {came}: name one behind the folder, as {root / cameras[0]}; its cameras are "
        f"{', '.join(cameras)}."
    )


def _episodes_v2(root: Path, info: dict[str, Any], camera: str) -> list[_Episode]:
    """A parquet file, and a film for each camera, an episode."""
    lines = (root / "meta" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for each in [json.loads(line) for line in lines if line.strip()]:
        number = int(each["episode_index"])
        place = {"episode_index": number, "episode_chunk": number // int(info["chunks_size"]), "video_key": camera}
        film = root / info["video_path"].format(**place) if info["features"][camera]["dtype"] == "video" else None
        found.append(_Episode(number, int(each["length"]), root / info["data_path"].format(**place), film, 0.0))
    return found


def _episodes_v3(root: Path, info: dict[str, Any], camera: str) -> list[_Episode]:
    """Many episodes a file, and the places in `meta/episodes`."""
    datasets: Any = import_extra("pyarrow.dataset", "offline", "Reading a LeRobot dataset")
    filmed = info["features"][camera]["dtype"] == "video"
    own = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")] if filmed else []
    names = ["episode_index", "length", "data/chunk_index", "data/file_index", *own]
    files = sorted(str(file) for file in (root / "meta" / "episodes").rglob("*.parquet"))
    found = []
    # The other columns, statistics of every feature, are many.
    for row in datasets.dataset(files, format="parquet").to_table(columns=names).sort_by("episode_index").to_pylist():
        number, length, *data = (int(row[name]) for name in names[:4])
        film, begin = None, 0.0
        if filmed:
            chunk, file, begin = (row[name] for name in own)
            film = root / info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        place = dict(zip(("chunk_index", "file_index"), data, strict=True))
        found.append(_Episode(number, length, root / info["data_path"].format(**place), film, float(begin)))
    return found


def _row(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one row of a feature: a single number is no vector in the file."""
    return () if shape == (1,) else shape


def _numbers(values: Any, shape: tuple[int, ...]) -> Array:
    """A column of arrow as an array [t, ...]."""
    count = len(values)
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(count, *_row(shape))


def _decoded(content: bytes) -> Array:
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"), np.uint8)


def _state_of(file: Path) -> tuple[int, int]:
    with failing_as(str(file), OSError):
        state = file.stat()
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=256)
def _digest_of_state(file: Path, changed: int, size: int) -> str:
    """Of a file in the state that these numbers tell of: hashed once, however many episodes lie in it."""
    del changed, size
    return digest_of_file(file)
