"""Tensors are resized as OpenCV resizes arrays, to the bit: on the CPU by OpenCV, elsewhere by its arithmetic in torch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt_gym.resize import resize, resize_in_torch

SIZES = st.sampled_from([1, 8, 64, 84, 128, 144, 224])


def both(height: int, width: int, channels: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    if (height, width) == (size, size):
        return resize(torch.from_numpy(frames), size).numpy(), resize(frames, size)
    ours = resize_in_torch(torch.from_numpy(frames), size)
    assert ours.dtype == torch.uint8
    return ours.numpy(), resize(frames, size)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (360, 640),
        (84, 84),
        (210, 160),
        (64, 64),
        (256, 256),
        (256, 300),
        (384, 384),
        (1080, 1920),
        (1, 1),
        (1, 300),
        (127, 129),
    ],
)
def test_sizes_of_environments(height: int, width: int) -> None:
    ours, theirs = both(height, width, 3, 128)
    assert np.array_equal(ours, theirs), f"OpenCV {cv2.__version__} resizes in another way than this arithmetic"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 320), st.integers(1, 320), st.sampled_from([1, 3, 4]), SIZES, st.integers(0, 9))
def test_any_size(height: int, width: int, channels: int, size: int, seed: int) -> None:
    ours, theirs = both(height, width, channels, size, seed)
    assert np.array_equal(ours, theirs)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(1, 4))
def test_whole_multiples(size: int, down: int, across: int) -> None:
    """Halves are averages of areas in OpenCV, other whole steps are not."""
    ours, theirs = both(down * size, across * size, 3, size)
    assert np.array_equal(ours, theirs)


def test_extremes_do_not_overflow() -> None:
    for value in (0, 255):
        frame = np.full((1, 50, 70, 3), value, np.uint8)
        assert int(resize_in_torch(torch.from_numpy(frame), 128).float().mean()) == value


def test_views_of_every_kind() -> None:
    """Channels first, reversed, expanded: whatever lies behind the tensor."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 50), dtype=np.uint8)
    turned = torch.from_numpy(frames).permute(0, 2, 3, 1)
    grey = torch.from_numpy(frames[:, 0])[..., None].expand(-1, -1, -1, 3)
    for resized in (resize, resize_in_torch):
        assert np.array_equal(resized(turned, 64).numpy(), resize(frames.transpose(0, 2, 3, 1), 64))
        assert np.array_equal(resized(grey, 20).numpy()[..., :1], resize(frames[:, 0][..., None], 20))


def test_tensors_on_the_cpu_go_through_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpt_gym.resize.resize_in_torch", lambda *_: pytest.fail("whole frames were widened to int32"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), dtype=np.uint8)
    small = resize(torch.from_numpy(frames), 128)
    assert isinstance(small, torch.Tensor)
    assert np.array_equal(small.numpy(), resize(frames, 128))


def test_without_optimised_code() -> None:
    cv2.setUseOptimized(False)
    try:
        ours, theirs = both(90, 160, 3, 128)
    finally:
        cv2.setUseOptimized(True)
    assert np.array_equal(ours, theirs)


def test_frames_of_the_right_size_are_handed_back() -> None:
    frames = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    assert resize(frames, 128) is frames
