"""Resizing frames as VPT was trained: OpenCV's INTER_LINEAR, and on a GPU the same arithmetic in torch, to the bit."""

from __future__ import annotations

from functools import lru_cache
from typing import overload

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["resize", "resize_in_torch"]


@overload
def resize(frames_nhwc: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]: ...
@overload
def resize(frames_nhwc: Tensor, size: int) -> Tensor: ...
def resize(frames_nhwc: npt.NDArray[np.uint8] | Tensor, size: int) -> npt.NDArray[np.uint8] | Tensor:
    """Resizes frames as VPT's training data were: bilinear without antialiasing, aspect ratio not kept.

    Args:
        frames_nhwc: uint8 [N, H, W, C] of any height and width, C at most 4; an array, or a tensor on any device.
        size: side in pixels of what the network looks at; VPT's is 128.

    Returns:
        uint8 [N, size, size, C], array for array and tensor for tensor, on its device; the input itself when it has that size
        already.

    Source: `resize_image` of OpenAI's Video-Pre-Training (agent.py), which calls OpenCV's INTER_LINEAR. Gymnasium's
    ResizeObservation averages areas instead, and gives other latents.
    """
    count, height, width, channels = frames_nhwc.shape
    if (height, width) == (size, size):
        return frames_nhwc
    if isinstance(frames_nhwc, Tensor):
        if frames_nhwc.device.type == "cpu":
            # OpenCV reads the tensor's own bytes, where torch would widen whole frames to int32 first.
            return torch.from_numpy(resize(frames_nhwc.numpy(), size))
        return resize_in_torch(frames_nhwc, size)
    out_nhwc = np.empty((count, size, size, channels), np.uint8)
    for frame_hwc, out_hwc in zip(frames_nhwc, out_nhwc, strict=True):
        small = cv2.resize(frame_hwc, (size, size), interpolation=cv2.INTER_LINEAR)
        out_hwc[...] = small.reshape(out_hwc.shape)
    return out_nhwc


def resize_in_torch(frames_nhwc: Tensor, size: int) -> Tensor:
    """As `resize`, for a tensor on any device that has another size, without OpenCV.

    OpenCV's arithmetic on bytes: weights of 11 bits, and a vertical pass that drops bits in three places.

    Source: `HResizeLinear`, `VResizeLinear` and `resizeGeneric_` of OpenCV (modules/imgproc/src/resize.cpp). Tests compare it
    with the OpenCV that is installed.
    """
    height, width = frames_nhwc.shape[1:3]
    x_nhwc = frames_nhwc.int().contiguous()
    if (height, width) == (2 * size, 2 * size):
        # OpenCV averages areas where both sides are halved exactly.
        fields_nhwc = x_nhwc.view(len(x_nhwc), size, 2, size, 2, -1).sum(dim=(2, 4), dtype=torch.int32)
        return ((fields_nhwc + 2) >> 2).to(torch.uint8)
    left, right, left_weight, right_weight = _axis(width, size, False, frames_nhwc.device)
    upper, lower, upper_weight, lower_weight = _axis(height, size, True, frames_nhwc.device)
    rows_nhwc = x_nhwc[:, :, left] * left_weight[:, None] + x_nhwc[:, :, right] * right_weight[:, None]
    rows_nhwc >>= 4
    above_nhwc = (rows_nhwc[:, upper] * upper_weight[:, None, None]) >> 16
    below_nhwc = (rows_nhwc[:, lower] * lower_weight[:, None, None]) >> 16
    return ((above_nhwc + below_nhwc + 2) >> 2).to(torch.uint8)


@lru_cache(maxsize=64)
def _axis(length: int, size: int, vertical: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of `size` places along an axis: the two pixels between which it lies, and their weights in 2048ths."""
    place = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = place - first.astype(np.float32)
    if not vertical:
        # Beyond the outermost pixels OpenCV takes one whole pixel along a row, but two parts of it along a column, which
        # rounds differently.
        part[(first < 0) | (first >= length - 1)] = 0
    weights = [np.rint(share * np.float32(2048)).astype(np.int32) for share in (np.float32(1) - part, part)]
    pixels = [np.clip(first + step, 0, length - 1) for step in (0, 1)]
    near, far, near_weight, far_weight = (torch.from_numpy(values).to(device) for values in (*pixels, *weights))
    return near, far, near_weight, far_weight
