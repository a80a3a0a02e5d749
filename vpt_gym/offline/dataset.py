"""Reads a dataset of latents, from disk, in the parts that are asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.errors import RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.offline.recordings import GOAL, STANDARD, Array, failing_as
from vpt_gym.offline.spaces import space_of
from vpt_gym.offline.writing import MAIN, METADATA

__all__ = ["Episode", "LatentDataset"]


@dataclass(frozen=True)
class Episode:
    """What a dataset says of one of its episodes.

    Attributes:
        number: its place in the dataset.
        frames: how many latents it has.
        steps: how many actions; 0 in a dataset without any.
        recording: the name of the original.
        path: where that was read from.
        part: which episode of the original it is, where that held several.
        sha256: of the original, in hex.
        first_frame: which frame of the original its first latent is of.
    """

    number: int
    frames: int
    steps: int
    recording: str
    path: Path
    part: int
    sha256: str
    first_frame: int


class LatentDataset:
    """A dataset that `vpt_gym.offline.encode` has made. May be read from several threads.

    Args:
        path: its folder.

    Attributes:
        path: as given.
        latent_size: numbers in a latent.
        dtype: float32 or float16, as it is stored.
        action_space: None where there are no actions.
        encoder: what `encoder.describe()` said, a dict.
        fingerprint: of the encoder: which latents these are.
        layers: names of the layers that lie side by side in a latent, each as long as the others.
        episodes: in order.
        labels: names of what is known of every frame beside the latent; in Minari, `infos`.

    Raises:
        RecordingError: there is none, or it is damaged, or none of `encode`.
    """

    def __init__(self, path: Path | str) -> None:
        h5py: Any = import_extra("h5py", "offline", "Reading a dataset")
        self.path = Path(path)
        folder = self.path / "data"
        if not (folder / METADATA).is_file():
            raise RecordingError(
                f"{path} is no dataset of latents: make one with `vpt-gym encode RECORDINGS --out {path}`."
            )
        with failing_as(str(path), OSError, ValueError, AttributeError):
            metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            facts = metadata.get("vpt_gym")
        if not isinstance(facts, dict):
            raise RecordingError(
                f"{path} is a Minari dataset, but its observations are no latents of vpt_gym: encode it with "
                f"`vpt-gym encode {path} --out LATENTS`."
            )
        self.facts = facts
        with failing_as(f"{path} (its metadata)", ValueError, TypeError, LookupError):
            self.latent_size = int(facts["latent_size"])
            self.dtype = np.dtype(str(facts["dtype"])).name
            self.encoder: dict[str, Any] = facts["encoder"]
            self.fingerprint = str(facts["encoder"]["fingerprint"])
            self.layers: tuple[str, ...] = tuple(facts["layers"])
            count = int(metadata["total_episodes"])
        space = metadata.get("action_space")
        self.action_space: gym.Space[Any] | None = None if space is None else space_of(space, str(path))
        self._lock = threading.Lock()
        with failing_as(str(path), OSError):
            self._file = h5py.File(folder / MAIN, "r")
        with failing_as(str(path), OSError, LookupError, ValueError, TypeError, AttributeError):
            groups = [self._file[f"episode_{number}"] for number in range(count)]
            self.episodes = [_episode(number, group) for number, group in enumerate(groups)]
            self.labels: tuple[str, ...] = tuple(sorted(groups[0].get("infos", ()))) if groups else ()

    @property
    def frames(self) -> int:
        """Latents in all episodes."""
        return sum(episode.frames for episode in self.episodes)

    @property
    def goal_size(self) -> int:
        """Numbers in a goal of the label `goal`; 0 where there is no such label."""
        return int(self.read(0, [GOAL], 0, 1)[0][0].size) if GOAL in self.labels else 0

    def __len__(self) -> int:
        return len(self.episodes)

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()

    def __enter__(self) -> LatentDataset:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def read(self, number: int, names: Sequence[str], start: int = 0, stop: int | None = None) -> list[Array]:
        """Frames `start` to `stop` of an episode: arrays [t, ...] as they are stored.

        Args:
            number: of the episode.
            names: `latents`, `actions`, `rewards`, `terminations`, `truncations`, or a label.
            start: the first frame.
            stop: the frame behind the last; None for all.

        Raises:
            RecordingError: the dataset has no such column, or is damaged.
        """
        with self._lock, failing_as(str(self.path), OSError):
            group = self._file[f"episode_{number}"]
            return [self._column(group, name)[start:stop] for name in names]

    def _column(self, group: Any, name: str) -> Any:
        place = "observations" if name == "latents" else name if name in STANDARD else f"infos/{name}"
        if place not in group:
            standard = [key for key in STANDARD if key in group]
            known = ", ".join(["latents", *standard, *self.labels])
            raise RecordingError(f"{self.path} has no {name!r}; it has {known}.")
        return group[place]


def _episode(number: int, group: Any) -> Episode:
    marks = group.attrs
    return Episode(
        number,
        int(marks["total_frames"]),
        int(marks.get("total_steps", 0)),
        str(marks["recording"]),
        Path(str(marks["path"])),
        int(marks["part"]),
        str(marks["sha256"]),
        int(marks["first_frame"]),
    )
