"""Frames to measure with: real Minecraft video where there is some, else synthetic moving pictures that are called so."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vpt_gym.errors import VPTGymError
from vpt_gym.resize import resize

__all__ = ["Frames", "Pictures", "load_pictures", "read_video"]

Frames = npt.NDArray[np.uint8]

FRAMES_KEPT = 600
"""Frames of a video that are read: as many as MineStudio's have, 29 MB at 128x128."""
SYNTHETIC = "synthetic moving pictures, not a game (give --video, or install MineStudio)"
"""An accuracy measured on them says little about games."""


@dataclass(frozen=True)
class Pictures:
    """Videos, each uint8 [T, size, size, 3], RGB, of a length of its own; and what they are, for people."""

    videos: tuple[Frames, ...]
    source: str

    def frames(self, rows: int, step: int) -> Frames:
        """Frame `step` of each row, uint8 [rows, size, size, 3], a fresh array.

        A video runs forwards, then backwards, and so on; rows that share one are spread over it.
        """
        return np.stack([self._frame(row, rows, step) for row in range(rows)])

    def _frame(self, row: int, rows: int, step: int) -> Frames:
        video = self.videos[row % len(self.videos)]
        sharing = -(-rows // len(self.videos))
        turn = max(1, 2 * (len(video) - 1))
        at = (step + row // len(self.videos) * len(video) // sharing) % turn
        frame: Frames = video[min(at, turn - at) % len(video)]
        return frame


def load_pictures(paths: Sequence[Path], size: int) -> Pictures:
    """Videos at the size that an encoder reads: these; or else the recordings in MineStudio's package; or else drawn ones.

    Raises:
        VPTGymError: a file cannot be read as a video.
    """
    if paths:
        return Pictures(tuple(read_video(path, size) for path in paths), ", ".join(path.name for path in paths))
    if recordings := _minestudio_recordings():
        source = "real Minecraft video (the recordings in MineStudio's package)"
        return Pictures(tuple(read_video(path, size) for path in recordings), source)
    return Pictures(tuple(_draw(np.random.default_rng(seed), size) for seed in range(2)), SYNTHETIC)


def read_video(path: Path, size: int, most: int = FRAMES_KEPT) -> Frames:
    """The first frames of a video file, at most so many: uint8 [T, size, size, 3].

    Raises:
        VPTGymError: OpenCV can read none.
    """
    frames: list[Frames] = []
    video = cv2.VideoCapture(str(path)) if path.is_file() else None
    while video is not None and len(frames) < most:
        found, bgr = video.read()
        if not found:
            break
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        frames.append(resize(rgb[None], size)[0])
    if not frames:
        what = "is not a file" if video is None else "holds no frame that OpenCV can read"
        raise VPTGymError(f"The video {path} {what}; give an .mp4 or .avi file, or leave --video out.")
    return np.stack(frames)


def _minestudio_recordings() -> list[Path]:
    spec = importlib.util.find_spec("minestudio")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "benchmark" / "auto_eval" / "eval_video"
    # The first of each task: two rows should not see the same scene.
    return sorted(path for task in folder.glob("*") for path in sorted(task.glob("*.mp4"))[:1])


def _draw(random: np.random.Generator, size: int) -> Frames:
    """A smooth coloured landscape that drifts by, under a block that stands still: uint8 [T, size, size, 3]."""
    coarse = random.integers(0, 256, (4, 24, 3), dtype=np.uint8)
    world = np.asarray(cv2.resize(coarse, (128 + FRAMES_KEPT, 128), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    frames = np.stack([world[:, step : step + 128] for step in range(FRAMES_KEPT)])
    frames[:, 52:76, 52:76] = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    small: Frames = resize(frames, size)
    return small
