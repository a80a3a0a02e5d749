"""ROCKET-1: the mask and the id in every observation, and batches of one size after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders.minestudio.cases import RocketCase
from tests.support.frames import MinecraftVideos
from vpt_gym.encoders.minestudio import PolicyEncoder, encoder_from_policy
from vpt_gym.errors import ObservationError, VPTGymError

pytestmark = pytest.mark.minestudio


@pytest.fixture(scope="module")
def encoder(rocket: Any) -> PolicyEncoder:
    return encoder_from_policy(rocket)


def given(count: int = 2, **others: Any) -> dict[str, Any]:
    return {
        "image": np.zeros((count, 20, 30, 3), np.uint8),
        "obj_mask": np.ones((count, 20, 30), np.float32),
        "obj_id": np.zeros(count, np.int64),
        **others,
    }


def test_what_it_reads_matters(encoder: PolicyEncoder) -> None:
    assert encoder.also_reads == ("obj_mask", "obj_id")
    latents = [
        encoder.stream(2).step(given(**others), [True, True])
        for others in ({}, {"obj_mask": np.zeros((2, 20, 30), np.bool_)}, {"obj_id": np.array([8, -1])})
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert float((latents[one] - latents[other]).abs().max()) > 0.01
    as_bytes = encoder.stream(2).step(given(obj_mask=torch.ones(2, 5, 7, dtype=torch.uint8)), [True, True])
    assert torch.equal(as_bytes, latents[0])


def test_batches_of_any_size_follow_each_other(rocket: Any, real_frames: MinecraftVideos) -> None:
    """ROCKET-1 keeps a `first` of the shape that it sees first: 1, 8, then 3 rows."""
    encoder, case = encoder_from_policy(rocket), RocketCase(rocket)
    frames = real_frames.small(8, rows=1)[0]
    times = list(range(8))
    expected = encoder.stream(8).step(case.given(frames, times), [True] * 8)
    for rows in (1, 8, 3):
        latents = encoder.stream(rows).step(case.given(frames[:rows], times[:rows]), [True] * rows)
        torch.testing.assert_close(latents, expected[:rows], atol=1e-5, rtol=0)
    assert not hasattr(rocket, "first")  # nothing is left behind


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((2, 20, 30, 3), np.uint8), "a dict of 'image', 'obj_mask', 'obj_id', but the frames alone came"),
        ({key: value for key, value in given().items() if key != "obj_id"}, "but a dict of 'image', 'obj_mask' came"),
        (given(obj_id=np.array([0, 9])), "between -1, for no interaction, and 8"),
        (given(obj_id=np.array([0, -2])), "between -1"),
        (given(obj_id=np.array([0.0, 1.0])), "2 whole numbers"),
        (given(obj_id=np.zeros((2, 1), int)), r"2 whole numbers of shape \(2,\).*take obj_id\[:, 0\]"),
        (given(obj_mask=[np.zeros((20, 30)), np.zeros((20, 31))]), "obj_mask must be one array for all rows"),
        (given(obj_mask=torch.full((2, 20, 30), 255, dtype=torch.bfloat16)), "divide a mask"),
        (given(obj_mask=np.full((2, 20, 30), 255, np.uint8)), "divide a mask of 0 and 255 by 255"),
        (given(obj_mask=np.full((2, 20, 30), np.nan)), "obj_mask holds NaN or infinity"),
        (given(obj_mask=np.zeros((2, 20, 30, 1))), r"obj_mask must be \[2, height, width\]"),
        (given(obj_mask=np.zeros((1, 20, 30))), r"obj_mask must be \[2, height, width\]"),
        (given(obj_mask="mask"), r"obj_mask must be \[2, height, width\]"),
        (given(image=np.zeros((2, 20, 30, 3), np.float32)), "uint8"),
        (given(count=3), "one row for each of the 2 environments"),
    ],
)
def test_bad_observations(frames: Any, words: str, encoder: PolicyEncoder) -> None:
    """Refused in a sentence, and nothing has moved."""
    stream, control = encoder.stream(2), encoder.stream(2)
    for moved in (stream, control):
        moved.step(given(), [True, True])
    with pytest.raises(ObservationError, match=words):
        stream.step(frames, [True, True])
    assert torch.equal(stream.step(given(), [False, False]), control.step(given(), [False, False]))


def test_takes_no_condition(rocket: Any, encoder: PolicyEncoder) -> None:
    with pytest.raises(VPTGymError, match="RocketPolicy takes no condition, but a dict came"):
        encoder_from_policy(rocket, {"obj_id": 3})
    with pytest.raises(VPTGymError, match="also_reads is for policies of your own"):
        encoder_from_policy(rocket, also_reads=["obj_id"])


def test_masks_of_bfloat16(encoder: PolicyEncoder) -> None:
    """NumPy has no such numbers."""
    halves = given(obj_mask=torch.full((2, 20, 30), 0.5, dtype=torch.bfloat16))
    expected = encoder.stream(2).step(given(obj_mask=np.full((2, 20, 30), 0.5)), [True, True])
    assert torch.equal(encoder.stream(2).step(halves, [True, True]), expected)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"obj_id": [[0, 0, 0]] * 2}, r"encode: 'obj_id' must be an array or tensor \[2, 3, ...\].*a list came"),
        ({"obj_id": np.zeros(2, int)}, r"one of shape \(2,\) came"),
        ({"obj_id": np.zeros((2, 2), int)}, r"one of shape \(2, 2\) came"),
        ({"obj_mask": None}, "'obj_mask' must be.*a NoneType came"),
        ({"image": np.zeros((2, 20, 30, 3), np.uint8)}, r"encode: frames must have shape \[B, T"),
    ],
)
def test_sequences_with_bad_entries(others: dict[str, Any], words: str, encoder: PolicyEncoder) -> None:
    whole = {
        "image": np.zeros((2, 3, 20, 30, 3), np.uint8),
        "obj_mask": np.ones((2, 3, 20, 30), np.float32),
        "obj_id": np.zeros((2, 3), np.int64),
        "pov": None,  # nothing reads it
    }
    assert encoder.encode(whole).shape == (2, 3, encoder.latent_size)
    with pytest.raises(ObservationError, match=words):
        encoder.encode({**whole, **others})
    del whole["obj_id"]
    with pytest.raises(ObservationError, match="but a dict of 'image', 'obj_mask' came"):
        encoder.encode(whole)
