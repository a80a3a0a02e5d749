"""Episodes of Minari datasets with image observations: HDF5, arrow and parquet, JPEG or raw, read a piece at a time."""

from __future__ import annotations

import hashlib
import io
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.errors import ObservationError, RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.frames import FrameSource, find_frames
from vpt_gym.offline.recordings import ACTED, STANDARD, Array, Chunk, Recording, digest_of_file, failing_as

__all__ = ["MinariRecording", "is_minari", "minari_in"]

DAMAGE: Final = (OSError, ValueError, KeyError, TypeError, IndexError, AssertionError)


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari dataset, or the `data` folder in one."""
    return any((path / part / "metadata.json").is_file() for part in ("data", "."))


def minari_in(path: Path) -> list[MinariRecording]:
    """The episodes of a dataset.

    Raises:
        RecordingError: it is damaged, has no image, holds latents already, or has actions that no policy of
            Stable-Baselines3 can be cloned on.
    """
    folder = path / "data" if (path / "data" / "metadata.json").is_file() else path
    storages: Any = import_extra("minari.dataset.minari_storage", "offline", "Reading a Minari dataset")
    with failing_as(str(path), *DAMAGE):
        storage = storages.MinariStorage.read(folder)
        metadata = storage.metadata
        count = int(metadata["total_episodes"])
    try:
        source = find_frames(storage.observation_space, owner=str(path))
    except ObservationError as error:
        raise RecordingError(f"{error} (the observations of {path})") from error
    if not isinstance(
        storage.action_space, (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    ):
        raise RecordingError(
            f"{path} has actions in {storage.action_space}, which Stable-Baselines3 cannot act in: flatten them."
        )
    kind = _HDF5 if storage.FORMAT == "hdf5" else _Arrow
    # Before 0.5.4 Minari wrote every image as JPEG, and did not say so.
    image = storages.is_image_space(_image_space(storage.observation_space, source))
    jpeg = bool(metadata.get("jpeg_encoding", True) and image)
    return [kind(folder, path.name, number, source, storage, jpeg) for number in range(count)]


class MinariRecording(Recording):
    """One episode; the other entries of its observations and its infos, where they are numbers, are labels."""

    def __init__(self, folder: Path, dataset: str, number: int, source: FrameSource, storage: Any, jpeg: bool) -> None:
        self.path = folder
        self.part = number
        self.name = f"{dataset}/episode {number}"
        self.action_space = storage.action_space
        self.frame_count = None
        self._format = storage.FORMAT
        self._source = source
        self._jpeg = jpeg
        self._digest: str | None = None

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`."""
        with failing_as(self.name, *DAMAGE):
            start = 0
            columns, count = self._columns()
            for images in self._images(length):
                frames = self._frames(images)
                here = slice(start, start + len(frames))
                first = np.arange(here.start, here.stop) == 0
                yield Chunk(frames, first, {key: values[here] for key, values in columns.items()})
                start += len(frames)
            if not start or start != count:
                raise RecordingError(f"{self.name} holds {start} of {count} frames; get it again, or leave it out.")

    @abstractmethod
    def _columns(self) -> tuple[dict[str, Array], int]:
        """Everything but the images, one row a frame, and how many frames there are."""

    @abstractmethod
    def _images(self, length: int) -> Iterator[Any]:
        """The images as they are stored, up to `length` at a time."""

    def _frames(self, images: Any) -> Any:
        """uint8 [t, H, W, 3] of images as they are stored."""
        # Minari 0.5.3 writes small pictures as JPEG too, into HDF5, and does not know it when it reads them.
        if self._jpeg or (len(images) and np.size(images[0]) != math.prod(self._source.shape)):
            images = [_decoded(bytes(image)) for image in images]
        stacked = np.stack(list(images)).reshape(-1, *self._source.shape)
        if self._source.layout == "CHW":
            stacked = stacked.transpose(0, 2, 3, 1)
        elif self._source.layout == "HW":
            stacked = stacked[..., None]
        return stacked if stacked.shape[3] == 3 else stacked.repeat(3, axis=3)

    def _aligned(self, columns: dict[str, Array], labels: dict[str, Array], count: int) -> dict[str, Array]:
        """One row a frame: steps have one less, infos one or none less."""
        acted = np.arange(count) < len(columns["actions"])
        rows = {key: _behind(values, count) for key, values in columns.items()}
        usable = {
            key: _behind(values, count)
            for key, values in labels.items()
            if values.dtype.kind in "biuf" and values.ndim and len(values) in (count, count - 1)
        }
        return {**usable, **rows, ACTED: acted}


class _HDF5(MinariRecording):
    def digest(self) -> str:
        """Of the dataset's file."""
        return digest_of_file(self.path / "main_data.hdf5")

    @contextmanager
    def _group(self) -> Iterator[Any]:
        h5py: Any = import_extra("h5py", "offline", "Reading a Minari dataset")
        with h5py.File(self.path / "main_data.hdf5", "r") as file:
            yield file[f"episode_{self.part}"]

    def _columns(self) -> tuple[dict[str, Array], int]:
        with self._group() as group:
            columns = {key: group[key][()] for key in STANDARD}
            labels = _leaves(group["infos"]) if "infos" in group else {}
            if self._source.key is not None:
                others = {key: node for key, node in group["observations"].items() if key != self._source.key}
                labels |= _leaves(others)
            count = len(self._image_node(group))
        return self._aligned(columns, labels, count), count

    def _images(self, length: int) -> Iterator[Any]:
        with self._group() as group:
            node = self._image_node(group)
            for start in range(0, len(node), length):
                yield node[start : start + length]

    def _image_node(self, group: Any) -> Any:
        observations = group["observations"]
        return observations if self._source.key is None else observations[self._source.key]


class _Arrow(MinariRecording):
    def digest(self) -> str:
        """Of the episode's files."""
        files = sorted(each for each in self._files())
        return hashlib.sha256("".join(digest_of_file(file) for file in files).encode()).hexdigest()

    def _files(self) -> list[Path]:
        return [each for each in (self.path / str(self.part)).iterdir() if each.name != "metadata.json"]

    def _dataset(self) -> Any:
        datasets: Any = import_extra("pyarrow.dataset", "offline", "Reading a Minari dataset")
        return datasets.dataset([str(file) for file in sorted(self._files())], format=self._format)

    def _columns(self) -> tuple[dict[str, Array], int]:
        dataset = self._dataset()
        fields: Any = import_extra("pyarrow.dataset", "offline", "Reading a Minari dataset").field
        wanted = {name: fields(name) for name in dataset.schema.names if name in STANDARD or name == "infos"}
        others: list[str] = []
        if self._source.key is not None:
            entries = dataset.schema.field("observations").type
            others = [entry.name for entry in entries if entry.name != self._source.key]
            wanted |= {f"observations.{name}": fields("observations", name) for name in others}
        table = dataset.to_table(columns=wanted).combine_chunks()
        count = table.num_rows
        columns = {key: _array(table[key].combine_chunks()) for key in STANDARD}
        shape = () if self.action_space is None or self.action_space.shape is None else self.action_space.shape
        columns["actions"] = columns["actions"].reshape(count, *shape)
        # Arrow's rows are frames: behind the last action stands a row of zeros.
        columns = {key: values[:-1] for key, values in columns.items()}
        labels = _fields("", table["infos"].combine_chunks()) if "infos" in wanted else {}
        for name in others:
            labels |= _fields(name, table[f"observations.{name}"].combine_chunks())
        return self._aligned(columns, labels, count), count

    def _images(self, length: int) -> Iterator[Any]:
        for batch in self._dataset().to_batches(columns=["observations"], batch_size=length):
            if not batch.num_rows:
                continue
            values = batch.column(0)
            if self._source.key is not None:
                values = values.field(self._source.key)
            yield values.to_pylist() if self._jpeg else _array(values)


def _image_space(space: gym.Space[Any], source: FrameSource) -> gym.Space[Any]:
    return space if source.key is None else space[source.key]  # type: ignore[index]


def _decoded(content: bytes) -> Array:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)), np.uint8)


def _behind(values: Array, count: int) -> Array:
    return np.pad(values, [(0, count - len(values))] + [(0, 0)] * (values.ndim - 1))


def _leaves(nodes: Any) -> dict[str, Array]:
    """Arrays of a group of HDF5, those inside groups by names joined with dots."""
    found: dict[str, Array] = {}
    for key, node in nodes.items():
        if hasattr(node, "items"):
            found |= {f"{key}.{name}": values for name, values in _leaves(node).items()}
        elif node.dtype.kind in "biuf":
            found[key] = node[()]
    return found


def _fields(name: str, values: Any) -> dict[str, Array]:
    """Arrays of a column of arrow, as `_leaves`."""
    import pyarrow as pa

    if pa.types.is_struct(values.type):
        found: dict[str, Array] = {}
        for field in values.type:
            found |= _fields(f"{name}.{field.name}".lstrip("."), values.field(field.name))
        return found
    plain = pa.types.is_fixed_size_list(values.type) or pa.types.is_primitive(values.type)
    return {name: _array(values)} if plain else {}


def _array(values: Any) -> Array:
    """Numbers of arrow as an array [t] or [t, n]."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(values.type):
        return np.asarray(values.flatten().to_numpy(zero_copy_only=False)).reshape(len(values), -1)
    return np.asarray(values.to_numpy(zero_copy_only=False))
