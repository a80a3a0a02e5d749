from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from vpt_gym import load_encoder
from vpt_gym.errors import OptionError, WeightsError


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, count, 64, 64, 3), np.uint8)


def test_every_frame_opens_an_episode() -> None:
    encoder, inner = load_encoder("reset:random:mini"), load_encoder("random:mini")
    pictures = frames(3)
    opened = inner.encode(pictures, np.ones((2, 3), np.bool_))
    assert torch.equal(encoder.encode(pictures), opened)
    assert not torch.allclose(inner.encode(pictures)[:, 1:], opened[:, 1:], atol=1e-3)
    stream = encoder.stream(2)
    stepped = torch.stack([stream.step(pictures[:, t], np.zeros(2, np.bool_)) for t in range(3)], dim=1)
    torch.testing.assert_close(stepped, opened, atol=1e-4, rtol=0)
    row = stream.step(pictures[1:, 0], [False], rows=[1])
    torch.testing.assert_close(row, opened[1:, 0], atol=1e-4, rtol=0)


def test_it_is_another_encoder_that_says_what_it_is() -> None:
    encoder, inner = load_encoder("reset:random:mini", layer="block0"), load_encoder("random:mini", layer="block0")
    assert encoder.fingerprint != inner.fingerprint
    facts = encoder.describe()
    assert facts["source"] == "reset:random:mini"
    assert facts["options"]["layer"] == "block0"
    assert facts["untrained"]
    assert "its memory wiped at every frame" in facts["words"]
    assert pickle.loads(pickle.dumps(encoder)).fingerprint == encoder.fingerprint


def test_nothing_behind_it() -> None:
    with pytest.raises(WeightsError):
        load_encoder("reset:nosuch:thing")


def test_frames_alone() -> None:
    encoder = load_encoder("frames:96")
    assert encoder.frame_size == 96
    assert encoder.encode(frames(2)).tolist() == [[[0.0], [0.0]]] * 2
    for source in ("frames:", "frames:20", "frames:x"):
        with pytest.raises(OptionError, match="36 or more"):
            load_encoder(source)
