from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.training.pixel_env import LightEnv
from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import WriteError
from vpt_gym.training.video import CAPTION_HEIGHT, EpisodeRecorder


def film(steps: int, fps: float) -> EpisodeRecorder:
    venv = DummyVecEnv([lambda: LightEnv(render_mode="rgb_array")] * 2)
    venv.seed(0)
    venv.reset()
    recorder = EpisodeRecorder(venv, 1, fps)
    for _ in range(steps):
        _, rewards, dones, _ = venv.step(np.zeros(2, int))
        for index in range(2):
            recorder(index, float(rewards[index]), bool(dones[index]))
    venv.close()
    return recorder


def test_a_gif_shows_every_step_at_its_speed(tmp_path: Path) -> None:
    recorder = film(7, 10.0)
    recorder.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        durations = []
        for index in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(index)
            durations.append(gif.info["duration"])
        # Equal pictures in a row are one frame that lasts longer.
        assert sum(durations) == 7 * 100
        assert gif.size == (64, 64 + CAPTION_HEIGHT)
        halves = np.asarray(gif.convert("L"))[:64].reshape(64, 2, 32).mean(axis=(0, 2))
    assert sorted(halves.round()) == [40, 220]


def test_an_mp4_holds_every_step(tmp_path: Path) -> None:
    film(7, 10.0).save(tmp_path / "a.mp4")
    reader: Any = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1])
    assert len(frames) == 7
    assert frames[0].shape == (64 + CAPTION_HEIGHT, 64, 3)


def test_a_film_is_short_and_holds_the_end_of_an_episode() -> None:
    long = film(100, 50.0)
    assert long.fps == 25.0
    assert len(long.frames) / long.fps <= 8.7
    # Seven pictures, the end held for 0.6 s, and the opening picture of the next episode.
    assert len(film(8, 10.0).frames) == 7 + 6 + 1


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_folder_that_is_not_there(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=rf"a\{suffix} cannot be written: No such file or directory; name a place"):
        film(1, 10.0).save(tmp_path / "gone" / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_full_disk_leaves_no_half_film(suffix: str, tmp_path: Path) -> None:
    """The system's limit of a file's size is met as a disk's end is; the film that was there stays."""
    resource = pytest.importorskip("resource")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"the film before")
    recorder = film(7, 10.0)
    recorder.frames = [Image.effect_noise((320, 240), 90).convert("RGB") for _ in range(7)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(WriteError, match=rf"a\{suffix} cannot be written: "):
            recorder.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"the film before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_write_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(VPTGymError, match="No step was filmed"):
        film(0, 10.0).save(tmp_path / "a.gif")
    with pytest.raises(VPTGymError, match=r"ends in \.gif or \.mp4"):
        film(1, 10.0).save(tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())
