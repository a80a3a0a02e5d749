"""GROOT: reference videos, and batches of one size after another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.frames import MinecraftVideos
from vpt_gym.encoders.minestudio import PolicyEncoder, encoder_from_policy
from vpt_gym.encoders.minestudio.groot import _decode
from vpt_gym.errors import ObservationError, VPTGymError

pytestmark = pytest.mark.minestudio


@pytest.fixture(scope="module")
def encoder(groot: Any) -> PolicyEncoder:
    return encoder_from_policy(groot)


def embedded(encoder: PolicyEncoder, condition: Any) -> torch.Tensor:
    return encoder.prepare_condition(condition).entries["z"]


def test_reference_is_what_the_policy_makes_of_it(
    groot: Any, encoder: PolicyEncoder, real_frames: MinecraftVideos, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `encode_video`, but without its prints and its cache; frames give the same as the file that they came from."""
    path = real_frames.paths[0]
    capsys.readouterr()
    ours = embedded(encoder, str(path))
    assert capsys.readouterr() == ("", "")
    assert groot.condition_cache == {}
    with torch.no_grad():
        theirs = groot.encode_video(str(path))["posterior_dist"]["z"][0, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    frames = _decode(path, 100)
    assert torch.equal(embedded(encoder, frames), ours)  # only the first `timesteps` count, as in encode_video
    assert torch.equal(embedded(encoder, torch.from_numpy(frames)), ours)
    assert float((ours - embedded(encoder, real_frames.paths[1])).abs().max()) > 0.01


def test_a_file_that_changed_is_read_again(
    encoder: PolicyEncoder, real_frames: MinecraftVideos, tmp_path: Path
) -> None:
    path = tmp_path / "reference.mp4"
    shutil.copy(real_frames.paths[0], path)
    before = embedded(encoder, path)
    shutil.copy(real_frames.paths[1], path)
    assert torch.equal(embedded(encoder, path), embedded(encoder, real_frames.paths[1]))
    assert not torch.equal(embedded(encoder, path), before)


def test_batches_of_any_size_follow_each_other(groot: Any, real_frames: MinecraftVideos) -> None:
    """GROOT's decoder keeps a `first` of the shape that it sees first: 1, 8, then 3 rows, and the policy's own use between."""
    encoder = encoder_from_policy(groot, real_frames.paths[0])
    frames = real_frames.small(8, rows=1)[0]
    expected = encoder.stream(8).step(frames, [True] * 8)
    for rows in (1, 8, 3):
        latents = encoder.stream(rows).step(frames[:rows], [True] * rows)
        torch.testing.assert_close(latents, expected[:rows], atol=1e-5, rtol=0)
        own = {"image": torch.from_numpy(frames[None, :1]), "ref_video_path": str(real_frames.paths[0])}
        groot.get_action(own, None)
        assert groot.decoder.first.shape == (1, 1)  # the policy's own, which it goes on with
    groot.condition_cache.clear()


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("no-such.mp4", "'no-such.mp4' cannot be read"),
        (__file__, "cannot be read"),
        ("", "The reference video '' cannot be read"),
        ("a\0.mp4", r"The reference video 'a\\x00.mp4' cannot be read"),
        ({"ref_video_path": "a.mp4"}, "the path of a reference video or its frames.*dict came"),
        (np.zeros((0, 8, 8, 3), np.uint8), "must have shape"),
        (np.zeros((4, 8, 8, 3), np.float32), "uint8"),
    ],
)
def test_bad_conditions(condition: Any, words: str, encoder: PolicyEncoder) -> None:
    with pytest.raises(VPTGymError, match=words):
        encoder.prepare_condition(condition)


def test_needs_a_condition(encoder: PolicyEncoder, real_frames: MinecraftVideos) -> None:
    with pytest.raises(VPTGymError, match="GrootPolicy needs one"):
        encoder.stream(1).step(real_frames.small(1, rows=1)[0], [True])
    with pytest.raises(ObservationError, match="the frames alone"):
        encoder.stream(1).step({"image": real_frames.small(1, rows=1)[0]}, [True])


def test_frame_size_is_the_backbones(groot: Any) -> None:
    assert encoder_from_policy(groot).frame_size == 160
    assert encoder_from_policy(groot, frame_size=96).frame_size == 96
