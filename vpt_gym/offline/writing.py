"""Writes latents in Minari's HDF5 layout: one file for each recording while the work goes on, one dataset at its end."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.errors import OptionError
from vpt_gym.extras import import_extra
from vpt_gym.offline.recordings import ACTED, STANDARD, Array, Recording
from vpt_gym.offline.spaces import latent_space, text_of
from vpt_gym.running.files import write_json

__all__ = ["MAIN", "METADATA", "PieceWriter", "assemble"]

MAIN: Final = "main_data.hdf5"
METADATA: Final = "metadata.json"

FRAMES_PER_CHUNK: Final = 64
"""Frames that are stored, compressed and read as one."""


class PieceWriter:
    """One recording's latents, written as they come, under a temporary name until `finish`.

    Args:
        target: the file to make.
        recording: whose latents these are.
        digest: of the original.
        order: where the recording stands among the inputs.
        dtype: float32 or float16.
        compression: gzip or none.
    """

    def __init__(
        self, target: Path, recording: Recording, digest: str, order: int, *, dtype: str, compression: str
    ) -> None:
        h5py: Any = import_extra("h5py", "offline", "Writing a dataset")
        self.target = target
        self.frames = 0
        self._dtype = np.dtype(dtype)
        self._filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}
        self._temporary = target.with_name(f".{target.name}.partial")
        self._file = h5py.File(self._temporary, "w", track_order=True)
        self._marks = {
            "recording": recording.name,
            "path": str(recording.path),
            "part": recording.part,
            "sha256": digest,
        }
        self._file.attrs.update({**self._marks, "order": order})
        self._group: Any = None
        self._waiting: list[dict[str, Array]] = []

    def append(self, latents_td: Array, first_t: Array, columns: Mapping[str, Array]) -> None:
        """Takes the latents [t, D] of the next frames, with what belongs to each."""
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            stored_td = latents_td.astype(self._dtype, copy=False)
        if not np.isfinite(stored_td).all():
            raise OptionError(
                f"{self.target.stem}: a latent is larger than {self._dtype} can hold, {np.abs(latents_td).max():.3g}: write "
                "the dataset with dtype float32."
            )
        rows = {"observations": stored_td, **columns}
        starts = [0, *(int(place) for place in np.flatnonzero(first_t) if place), len(first_t)]
        for start, stop in pairwise(starts):
            if first_t[start]:
                self._end_episode()
                self._group = self._file.create_group(f"episode_{len(self._file)}")
                self._group.attrs.update({**self._marks, "first_frame": self.frames})
            self._waiting.append({key: values[start:stop] for key, values in rows.items()})
            self.frames += stop - start
            if sum(len(each["observations"]) for each in self._waiting) >= FRAMES_PER_CHUNK:
                self._flush()

    def finish(self) -> None:
        """Ends the last episode and gives the file its name."""
        self._end_episode()
        self._file.close()
        self._temporary.replace(self.target)

    def drop(self) -> None:
        """Leaves nothing."""
        self._file.close()
        self._temporary.unlink()

    def _flush(self) -> None:
        if not self._waiting:
            return
        for key in self._waiting[0]:
            values = np.concatenate([each[key] for each in self._waiting])
            place = key if key in ("observations", *STANDARD, ACTED) else f"infos/{key}"
            if place in self._group:
                dataset = self._group[place]
                dataset.resize(len(dataset) + len(values), axis=0)
                dataset[-len(values) :] = values
            else:
                chunks = (min(len(values), FRAMES_PER_CHUNK), *values.shape[1:])
                shape = (None, *values.shape[1:])
                self._group.create_dataset(place, data=values, chunks=chunks, maxshape=shape, **self._filters)
        self._waiting = []

    def _end_episode(self) -> None:
        if self._group is None:
            return
        self._flush()
        group = self._group
        frames = len(group["observations"])
        group.attrs["total_frames"] = frames
        if ACTED not in group:
            return
        # Minari's step is a frame, an action and the frame after it: an action at the very last frame has none.
        steps = frames - 1
        for key in STANDARD:
            group[key].resize(steps, axis=0)
        if steps and not (group["terminations"][-1] or group["truncations"][-1]):
            group["truncations"][-1] = True
        group.attrs["total_steps"] = steps
        del group[ACTED]


def assemble(
    target: Path,
    pieces: Iterable[Path],
    *,
    facts: dict[str, Any],
    action_space: gym.Space[Any] | None,
    latent_size: int,
) -> None:
    """Makes one dataset of the pieces, behind the episodes that it has already; whole at every moment.

    Args:
        target: the dataset's folder, there or not.
        pieces: files of `PieceWriter`, in order.
        facts: what the metadata says beside Minari's own.
        action_space: of the actions; None makes a dataset of latents alone.
        latent_size: D.
    """
    h5py: Any = import_extra("h5py", "offline", "Writing a dataset")
    folder = target / "data" if target.exists() else target.with_name(f".{target.name}.assembled") / "data"
    folder.mkdir(parents=True, exist_ok=True)
    main = folder / MAIN
    temporary = folder / f".{MAIN}.partial"
    if main.exists():
        shutil.copyfile(main, temporary)
    steps = 0
    with h5py.File(temporary, "a" if main.exists() else "w", track_order=True) as file:
        for piece in pieces:
            with h5py.File(piece, "r") as source:
                # A piece's groups are numbered, and HDF5 lists them as texts: 10 before 2.
                for place in range(len(source)):
                    number = len(file)
                    source.copy(f"episode_{place}", file, f"episode_{number}")
                    file[f"episode_{number}"].attrs["id"] = number
        episodes = len(file)
        steps = sum(int(file[f"episode_{number}"].attrs.get("total_steps", 0)) for number in range(episodes))
        frames = sum(int(file[f"episode_{number}"].attrs["total_frames"]) for number in range(episodes))
    _settle(temporary)
    metadata: dict[str, Any] = {
        "dataset_id": _dataset_id(target.name),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": version("minari"),
        "total_episodes": episodes,
        "total_steps": steps,
        "dataset_size": round(temporary.stat().st_size / 1e6, 1),
        "observation_space": text_of(latent_space(latent_size, facts["dtype"])),
        "vpt_gym": {**facts, "total_frames": frames},
    }
    if action_space is not None:
        metadata["action_space"] = text_of(action_space)
    # The episodes come before the number of them: between the two the dataset is the old one, whole.
    temporary.replace(main)
    write_json(folder / METADATA, metadata)
    if folder.parent != target:
        folder.parent.replace(target)


def _settle(path: Path) -> None:
    """Waits until a file is on the disk, so that a name never outlives its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _dataset_id(name: str) -> str:
    """A name that Minari takes: letters, digits, - and _, ending in a version."""
    name = re.sub(r"[^-\w]", "-", name)
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"
