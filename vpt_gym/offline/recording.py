"""Recordings of play as a folder of episodes: one `.npz` an episode, and a `dataset.json` that says what they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vpt_gym.errors import VPTGymError

__all__ = ["DATASET_FILE", "Episodes", "space_from_json", "space_to_json", "write_episode"]

DATASET_FILE: Final = "dataset.json"
_FRAMES, _ACTIONS = "frames", "actions"


@dataclass(frozen=True)
class Episodes:
    """Finished episodes of one folder, in the order of their names.

    Attributes:
        paths: one file each.
        lengths: frames of each.
        action_space: of all; None where the folder does not say.
        described: what `dataset.json` holds.
    """

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    action_space: gym.Space[Any] | None
    described: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path | str) -> Episodes:
        """Opens a folder.

        Raises:
            VPTGymError: there is no such folder, it holds no episodes, or one of them is damaged or has no frames or actions.
        """
        place = Path(folder).expanduser()
        paths = tuple(sorted(place.glob("*.npz")))
        if not paths:
            raise VPTGymError(
                f"{place} holds no recordings: expected a folder of .npz episodes, as `vpt-gym record` writes it."
            )
        described: dict[str, Any] = {}
        if (place / DATASET_FILE).exists():
            try:
                described = json.loads((place / DATASET_FILE).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise VPTGymError(f"{place / DATASET_FILE} is damaged ({error}): record the episodes again.") from error
        lengths = []
        for path in paths:
            shapes = _shapes(path)
            for name in (_FRAMES, _ACTIONS):
                if name not in shapes:
                    raise VPTGymError(
                        f"{path} has no {name!r}, only {', '.join(sorted(shapes))}: it is no recording with actions."
                    )
            lengths.append(shapes[_FRAMES][0])
        space = described.get("action_space")
        return cls(paths, tuple(lengths), None if space is None else space_from_json(space), described)

    def read(self, index: int) -> dict[str, NDArray[Any]]:
        """All arrays of one episode, [T, ...] each.

        Raises:
            VPTGymError: the file is damaged.
        """
        path = self.paths[index]
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise VPTGymError(f"{path} is damaged ({error}): record it again, or take it away.") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The arrays' shapes, from their headers alone."""
    import zipfile

    found: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    found[name.removesuffix(".npy")] = read(member)[0]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VPTGymError(f"{path} is damaged ({error}): record it again, or take it away.") from error
    return found


def write_episode(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes a file of arrays whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """An action space as JSON values.

    Raises:
        VPTGymError: it is none of Discrete, MultiDiscrete, MultiBinary and Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, gym.spaces.MultiBinary) and isinstance(space.n, (int, np.integer)):
        return {"type": "MultiBinary", "n": int(space.n)}
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return {"type": "Box", "low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}
    raise VPTGymError(f"Actions must be Discrete, MultiDiscrete, MultiBinary or a flat Box, not {space}.")


def space_from_json(values: Mapping[str, Any]) -> gym.Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        VPTGymError: the values describe none.
    """
    try:
        kind = values["type"]
        if kind == "Discrete":
            return gym.spaces.Discrete(int(values["n"]), start=int(values["start"]))
        if kind == "MultiDiscrete":
            return gym.spaces.MultiDiscrete(np.array(values["nvec"], np.int64))
        if kind == "MultiBinary":
            return gym.spaces.MultiBinary(int(values["n"]))
        if kind == "Box":
            dtype = np.dtype(values["dtype"])
            return gym.spaces.Box(np.array(values["low"], dtype), np.array(values["high"], dtype), dtype=dtype.type)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise VPTGymError(f"{dict(values)} describes no action space ({error}).") from error
    raise VPTGymError(
        f"{dict(values)} describes no action space: the type must be Discrete, MultiDiscrete, MultiBinary or Box."
    )
