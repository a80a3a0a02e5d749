"""A short film of evaluation episodes: what the environment renders, at the speed at which it was meant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.files import write_atomically

__all__ = ["EpisodeRecorder"]

MAX_SECONDS: Final = 8.0
MAX_FPS: Final = 25.0
MAX_WIDTH: Final = 320
CAPTION_HEIGHT: Final = 16
HOLD_SECONDS: Final = 0.6
COLOURS: Final = 128


class EpisodeRecorder:
    """Films one environment of a vector while it is evaluated, up to eight seconds.

    Args:
        venv: environments whose `render_mode` is `rgb_array`; only number `env_index` is rendered.
        env_index: the environment to film.
        fps: frames per second at which the environment's steps look natural.
    """

    def __init__(self, venv: VecEnv, env_index: int, fps: float) -> None:
        self.venv = venv
        self.env_index = env_index
        self.stride = max(1, int(np.ceil(fps / MAX_FPS)))
        self.fps = fps / self.stride
        self.frames: list[Image.Image] = []
        self._step = 0
        self._episode = 1
        self._return = 0.0

    def __call__(self, env_index: int, reward: float, done: bool) -> None:
        """Film the step that was just made, if it belongs to the filmed environment."""
        if env_index != self.env_index or len(self.frames) >= MAX_SECONDS * self.fps:
            return
        self._return += reward
        if done:
            # The vector has reset the environment already: its picture is the next episode's opening. The last picture
            # of this episode stays on for a moment.
            if self.frames:
                last = self.frames[-1].crop((0, 0, self.frames[-1].width, self.frames[-1].height - CAPTION_HEIGHT))
                self.frames += [self._captioned(last, "end")] * max(1, round(HOLD_SECONDS * self.fps))
            self._episode += 1
            self._return = 0.0
        if self._step % self.stride == 0:
            (rendered,) = self.venv.env_method("render", indices=[self.env_index])
            self.frames.append(self._captioned(_small(np.asarray(rendered)), ""))
        self._step += 1

    def save(self, path: Path) -> None:
        """Write the film as `.gif` or `.mp4`, by the path's suffix.

        Raises:
            VPTGymError: no step was filmed, or this OpenCV writes no MP4.
            WriteError: the system refused, or the disk is full; the old film is there as it was.
            OptionError: the suffix is another one.
        """
        if not self.frames:
            raise VPTGymError(f"No step was filmed, so {path} was not written.")
        if path.suffix == ".gif":
            write_atomically(path, self._write_gif)
        elif path.suffix == ".mp4":
            write_atomically(path, self._write_mp4)
        else:
            raise OptionError(f"A video ends in .gif or .mp4, not {path.suffix or 'nothing'}: {path}.")

    def _captioned(self, frame: Image.Image, mark: str) -> Image.Image:
        sheet = Image.new("RGB", (frame.width, frame.height + CAPTION_HEIGHT), (24, 24, 24))
        sheet.paste(frame, (0, 0))
        text = f"episode {self._episode}   return {self._return:+.0f}   {mark}"
        ImageDraw.Draw(sheet).text((4, frame.height + 2), text, fill=(235, 235, 235))
        return sheet

    def _write_gif(self, path: Path) -> None:
        pages = [frame.quantize(COLOURS, dither=Image.Dither.NONE) for frame in self.frames]
        pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 / self.fps), loop=0)

    def _write_mp4(self, path: Path) -> None:
        # OpenCV says of a folder that it cannot write to and of a codec that it lacks the same: nothing.
        path.touch()
        size = self.frames[0].size
        film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
        try:
            if not film.isOpened():
                raise VPTGymError(f"This OpenCV cannot write MP4, so {path.name} was not written; use a .gif.")
            for frame in _same_size(self.frames, size):
                film.write(cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR))
        finally:
            film.release()
        if (whole := _pictures_in(path)) != len(self.frames):
            raise OSError(f"of its {len(self.frames)} pictures {whole} were kept, as on a disk that is full")


def _pictures_in(path: Path) -> int:
    """How many pictures of a film can be read: where the disk is full, OpenCV goes on and says nothing."""
    film = cv2.VideoCapture(str(path))
    try:
        return next(number for number in itertools.count() if not film.grab())
    finally:
        film.release()


def _same_size(frames: Sequence[Image.Image], size: tuple[int, int]) -> list[Image.Image]:
    return [frame if frame.size == size else frame.resize(size) for frame in frames]


def _small(frame: npt.NDArray[np.uint8]) -> Image.Image:
    """At most 320 wide, with even sides, which video codecs want."""
    height, width = frame.shape[:2]
    scale = min(1.0, MAX_WIDTH / width)
    size = (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
    if size == (width, height):
        return Image.fromarray(frame)
    return Image.fromarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
