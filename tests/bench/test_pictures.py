from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.frames import MinecraftVideos
from vpt_gym.bench.pictures import Pictures, load_pictures
from vpt_gym.errors import VPTGymError


def numbered(count: int, tens: int) -> np.ndarray:
    return np.stack([np.full((128, 128, 3), 10 * tens + number, np.uint8) for number in range(count)])


def shown(pictures: Pictures, rows: int, step: int) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in pictures.frames(rows, step)]


def test_a_video_runs_forwards_and_backwards() -> None:
    pictures = Pictures((numbered(4, 0),), "x")
    assert [shown(pictures, 1, step)[0] for step in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]


def test_rows_take_videos_in_turn_and_are_spread_over_a_shared_one() -> None:
    pictures = Pictures((numbered(4, 0), numbered(6, 1)), "x")
    assert shown(pictures, 2, 0) == [0, 10]
    assert shown(pictures, 4, 0) == [0, 10, 2, 13]


def test_a_still_is_a_video_too() -> None:
    assert shown(Pictures((numbered(1, 3),), "x"), 2, 7) == [30, 30]


def test_frames_are_the_callers() -> None:
    pictures = Pictures((numbered(2, 0),), "x")
    pictures.frames(1, 0)[:] = 99
    assert shown(pictures, 1, 0) == [0]


def test_without_any_video_pictures_are_drawn_and_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minestudio" else find(name))
    pictures = load_pictures((), 128)
    assert "synthetic" in pictures.source
    first, second = pictures.videos
    assert first.shape == (600, 128, 128, 3)
    assert (first[0] != first[1]).any()
    assert (first[0] != second[0]).any()


def test_pictures_have_the_size_that_the_encoder_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert load_pictures((), 24).frames(3, 5).shape == (3, 24, 24, 3)


@pytest.mark.minestudio
def test_minestudios_recordings_are_read_as_vpt_reads_them(real_frames: MinecraftVideos) -> None:
    pictures = load_pictures((), 128)
    assert "real Minecraft video" in pictures.source
    wanted = real_frames.small(5, rows=len(pictures.videos))
    for video, frames in zip(pictures.videos, wanted, strict=True):
        assert len(video) == 600
        assert np.array_equal(video[:5], frames)


def test_a_video_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(7):
        writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))
    writer.release()
    pictures = load_pictures([path], 128)
    assert pictures.source == "red.avi"
    assert pictures.videos[0].shape == (7, 128, 128, 3)
    assert pictures.videos[0][0, 64, 64].tolist() == pytest.approx([250, 0, 0], abs=12), "RGB, to what JPEG loses"


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no film")
    with pytest.raises(VPTGymError, match=r"notes\.mp4 holds no frame .* leave --video out"):
        load_pictures([text], 128)
    with pytest.raises(VPTGymError, match="is not a file"):
        load_pictures([tmp_path / "nowhere.mp4"], 128)
