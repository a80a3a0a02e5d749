"""From paths to recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vpt_gym.errors import RecordingError
from vpt_gym.offline.readers.contractors import ContractorRecording
from vpt_gym.offline.readers.episodes import EpisodeRecording
from vpt_gym.offline.readers.lerobot import is_lerobot, lerobot_in
from vpt_gym.offline.readers.minari import is_minari, minari_in
from vpt_gym.offline.readers.trajectories import is_trajectories, trajectories_in
from vpt_gym.offline.readers.video import VIDEO_SUFFIXES, VideoRecording
from vpt_gym.offline.recordings import Recording

__all__ = ["find_recordings"]

Refused = Callable[[str, RecordingError], None]


def find_recordings(path: Path, refused: Refused) -> Iterator[Recording]:
    """The recordings that lie at a path, sorted by name.

    Args:
        path: a film, with a `.jsonl` beside it OpenAI's contractors'; an `.npz`; or a folder: a Minari dataset, MineStudio's
            LMDB trajectories, a LeRobot dataset, or else all films and `.npz` in it and below. Of a LeRobot dataset with
            several cameras, `<folder>/<camera's key>`.
        refused: is told the name and the reason of a file that cannot be read.

    Raises:
        RecordingError: there is nothing, or nothing of these kinds.
    """
    if path.is_file():
        yield from _of_file(path, path.name, refused)
        return
    if is_lerobot(path):
        yield from lerobot_in(path)
        return
    if not path.is_dir():
        raise RecordingError(f"{path} is not there: name a film, an .npz, or a folder of recordings.")
    if is_minari(path):
        yield from minari_in(path)
        return
    if is_trajectories(path):
        yield from trajectories_in(path)
        return
    found = [
        file
        for file in sorted(path.rglob("*"))
        # Hidden ones are half written, or what macOS leaves beside a film: `._film.mp4`.
        if file.suffix.lower() in (*VIDEO_SUFFIXES, ".npz") and not file.name.startswith(".")
    ]
    if not found:
        raise RecordingError(
            f"{path} holds no recordings: neither films ({', '.join(VIDEO_SUFFIXES)}) nor .npz, nor is it a Minari or a "
            "LeRobot dataset or a folder of MineStudio's trajectories."
        )
    for file in found:
        yield from _of_file(file, file.relative_to(path).as_posix(), refused)


def _of_file(path: Path, name: str, refused: Refused) -> Iterator[Recording]:
    kinds: dict[str, type[EpisodeRecording | VideoRecording | ContractorRecording]]
    kinds = {".npz": EpisodeRecording, **dict.fromkeys(VIDEO_SUFFIXES, VideoRecording)}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise RecordingError(
            f"{path} is no recording: name a film ({', '.join(VIDEO_SUFFIXES)}), an .npz, or a folder of recordings."
        )
    if path.with_suffix(".jsonl").is_file() and kind is VideoRecording:
        kind = ContractorRecording
    try:
        recording = kind(path, name)
    except RecordingError as error:
        refused(name, error)
        return
    yield recording
