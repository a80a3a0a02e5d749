"""Frames to measure with: real Minecraft video where there is some, else synthetic moving pictures that are called so."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vpt_gym.config import FRAME_SIZE
from vpt_gym.errors import VPTGymError
from vpt_gym.frames import resize

__all__ = ["Pictures", "load_pictures"]

Frames = npt.NDArray[np.uint8]

FRAMES_KEPT = 600
"""Frames of a video that are read: as many as MineStudio's have, 29 MB at 128x128."""


@dataclass(frozen=True)
class Pictures:
    """Videos as VPT reads them.

    Attributes:
        videos: each uint8 [T, 128, 128, 3], RGB; T may differ.
        source: what they are, for people.
        synthetic: they are drawn, not recorded: an accuracy measured on them says little about games.
    """

    videos: tuple[Frames, ...]
    source: str
    synthetic: bool

    def frames(self, rows: int, step: int) -> Frames:
        """Frame `step` of each row, uint8 [rows, 128, 128, 3], a fresh array; a video runs forwards, then backwards, and so on.

        Rows that share a video are spread over it.
        """
        return np.stack([self._frame(row, rows, step) for row in range(rows)])

    def _frame(self, row: int, rows: int, step: int) -> Frames:
        video = self.videos[row % len(self.videos)]
        sharing = -(-rows // len(self.videos))
        at = step + row // len(self.videos) * len(video) // sharing
        turn = max(1, 2 * (len(video) - 1))
        frame: Frames = video[min(at % turn, turn - at % turn)] if len(video) > 1 else video[0]
        return frame


def load_pictures(paths: Sequence[Path] = ()) -> Pictures:
    """Reads videos.

    Args:
        paths: video files that OpenCV can read; without any, the six recordings in MineStudio's package; where that is not
            installed, synthetic pictures.

    Raises:
        VPTGymError: a file cannot be read as a video.
    """
    if paths:
        return Pictures(tuple(map(_read, paths)), f"{', '.join(path.name for path in paths)}", synthetic=False)
    recordings = _minestudio_recordings()
    if recordings:
        # The first of each task: two rows should not see the same scene.
        return Pictures(
            tuple(map(_read, recordings)),
            "real Minecraft video (the recordings in MineStudio's package)",
            synthetic=False,
        )
    drawn = tuple(_draw(np.random.default_rng(seed)) for seed in range(2))
    return Pictures(
        drawn, "synthetic moving pictures, not a game (give --video, or install MineStudio)", synthetic=True
    )


def _minestudio_recordings() -> list[Path]:
    spec = importlib.util.find_spec("minestudio")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "benchmark" / "auto_eval" / "eval_video"
    return sorted(path for task in folder.glob("*") for path in sorted(task.glob("*.mp4"))[:1])


def _read(path: Path) -> Frames:
    frames: list[Frames] = []
    video = cv2.VideoCapture(str(path)) if path.is_file() else None
    try:
        while video is not None and len(frames) < FRAMES_KEPT:
            found, bgr = video.read()
            if not found:
                break
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
            frames.append(resize(rgb[None])[0])
    finally:
        if video is not None:
            video.release()
    if not frames:
        what = "holds no frame that OpenCV can read" if path.is_file() else "is not a file"
        raise VPTGymError(f"The video {path} {what}; give an .mp4 or .avi file, or leave --video out.")
    return np.stack(frames)


def _draw(random: np.random.Generator) -> Frames:
    """A smooth coloured landscape that drifts by, with a block that moves on its own: uint8 [T, 128, 128, 3]."""
    coarse = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    world = np.asarray(cv2.resize(coarse, (768, 768), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    block = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    frames = np.empty((FRAMES_KEPT, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    for step, frame in enumerate(frames):
        left = step
        top = int(128 + 100 * np.sin(step / 60))
        frame[:] = world[top : top + FRAME_SIZE, left : left + FRAME_SIZE]
        y, x = int(52 + 40 * np.sin(step / 23)), int(52 + 40 * np.cos(step / 31))
        frame[y : y + 24, x : x + 24] = block
    return frames
