"""The frames that moments of a dataset are of, out of the recordings that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vpt_gym.errors import RecordingError
from vpt_gym.offline.curves import draw_moments
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.neighbours import Moment
from vpt_gym.offline.readers import find_recordings

__all__ = ["Named", "contact_sheet", "pictures_of"]

Picture = npt.NDArray[np.uint8]


class Named(NamedTuple):
    """A picture that is of no dataset, and what it is called."""

    name: str
    picture: Picture


def pictures_of(dataset: LatentDataset, moments: Sequence[Moment]) -> list[Picture]:
    """The frame [H, W, 3] of each moment, read from its recording, each of which is decoded once.

    Raises:
        RecordingError: a recording is not where it was, or is no longer the same.
    """
    wanted: dict[tuple[Path, int, str], dict[int, list[int]]] = {}
    for place, moment in enumerate(moments):
        episode = dataset.episodes[moment.episode]
        frames = wanted.setdefault((episode.path, episode.part, episode.sha256), {})
        frames.setdefault(episode.first_frame + moment.frame, []).append(place)
    found: dict[int, Picture] = {}
    for (path, part, sha256), frames in wanted.items():
        those = (each for each in find_recordings(path, _raise) if each.part == part)
        recording = next((each for each in those if each.digest() == sha256), None)
        if recording is None:
            raise RecordingError(
                f"{path} is not the recording that {dataset.path} was made from (sha256 {sha256[:12]}): put the "
                "original back to see its frames."
            )
        for frame, picture in recording.pictures(sorted(frames)).items():
            for place in frames[frame]:
                found[place] = picture
    return [found[place] for place in range(len(moments))]


def contact_sheet(
    dataset: LatentDataset, looked_for: Sequence[Moment | Named], found: Sequence[Sequence[Moment]], target: Path
) -> None:
    """Writes a picture with a row for each moment or picture that was looked for: itself, then those that were found.

    Raises:
        RecordingError: as `pictures_of`.
    """
    inside = [query for query in looked_for if isinstance(query, Moment)]
    pictures = iter(pictures_of(dataset, [*inside, *(moment for row in found for moment in row)]))
    heads = [query if isinstance(query, Named) else Named(_place(query), next(pictures)) for query in looked_for]
    sheet = []
    for head, row in zip(heads, found, strict=True):
        words = [f"{_place(moment)}  {moment.distance:.3g}" for moment in row]
        sheet.append([(f"{head.name} looked for", head.picture), *((line, next(pictures)) for line in words)])
    draw_moments(sheet, target)


def _place(moment: Moment) -> str:
    return f"{moment.episode}:{moment.frame}"


def _raise(name: str, error: RecordingError) -> None:
    raise RecordingError(f"{name}: {error}") from error
