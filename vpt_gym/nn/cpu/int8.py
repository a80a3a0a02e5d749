"""Convolutions on 8-bit integers: weights scaled per channel, activations per frame, sums in 32 bits."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.nn.cpu.scratch import Scratch

__all__ = ["Int8Conv", "unavailable"]

_STEPS = 254
"""Steps between the smallest and the largest value of a frame: one fewer than 8 bits hold, so that rounding cannot overflow."""


@functools.cache
def unavailable() -> str | None:
    """Why these convolutions cannot be used, or None when they can: they are tried once."""
    # All of one kind, so that the sums are as large as they can be: without VNNI, pairs of products overflow 16 bits.
    example: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    norm = nn.GroupNorm(1, 16, **example).requires_grad_(requires_grad=False)
    weight = torch.ones(16, 16, 3, 3, **example)
    x_nhwc = torch.linspace(0, 1, 256, **example).view(1, 4, 4, 16)
    try:
        found_nhwc = Int8Conv(norm, weight, (1, 4, 4))(x_nhwc, Scratch())
    except (RuntimeError, AttributeError, TypeError) as error:
        return f"this build of torch lacks an operator of oneDNN: {str(error).splitlines()[0]}"
    wanted_nchw = F.conv2d(F.group_norm(x_nhwc.permute(0, 3, 1, 2), 1), weight, padding=1).relu_()
    if not torch.allclose(found_nhwc, wanted_nchw.permute(0, 2, 3, 1), atol=0.02 * float(wanted_nchw.max())):
        return "this CPU's 8-bit products overflow: it has no VNNI"
    return None


class Int8Conv:
    """ReLU(conv(norm(x))), the convolution on integers: unsigned activations of each frame's own range, signed weights."""

    def __init__(self, norm: nn.GroupNorm, weight_oihw: Tensor, example_nhw: tuple[int, int, int]) -> None:
        self._norm = norm
        largest_o = weight_oihw.abs().amax(dim=(1, 2, 3)).clamp_(min=torch.finfo(torch.float32).tiny)
        self._scale_o = (largest_o / 127).float()
        steps_oihw = torch.round(weight_oihw / self._scale_o[:, None, None, None]).to(torch.int8)
        self._zero_o = torch.zeros(len(weight_oihw), dtype=torch.int32, device="cpu")
        example_nchw = [1, weight_oihw.shape[1], *example_nhw[1:]]
        self._packed = torch.ops.onednn.qconv_prepack(
            steps_oihw, self._scale_o, 1.0, 1, [1, 1], [1, 1], [1, 1], 1, example_nchw
        )

    def __call__(self, x_nhwc: Tensor, scratch: Scratch) -> Tensor:
        """float32 [N, H, W, in] -> float32 [N, H, W, out]."""
        x_nchw = F.group_norm(x_nhwc.permute(0, 3, 1, 2), 1, self._norm.weight, self._norm.bias, self._norm.eps)
        # One frame at a time, because the operator takes one scale: a frame's rounding may not depend on its neighbours.
        return torch.cat([self._frame(frame_nchw, scratch) for frame_nchw in torch.split(x_nchw, 1)]).permute(
            0, 2, 3, 1
        )

    def _frame(self, x_nchw: Tensor, scratch: Scratch) -> Tensor:
        low, high = (bound.item() for bound in torch.aminmax(x_nchw))
        # Zero has to be a step: it is what the convolution pads with.
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, torch.finfo(torch.float32).tiny) / _STEPS
        zero = round(-low / scale)
        shifted = scratch.take("shifted", tuple(x_nchw.permute(0, 2, 3, 1).shape), x_nchw.dtype).permute(0, 3, 1, 2)
        # Conversion cuts off, so the half makes it round.
        torch.add(torch.tensor(zero + 0.5, dtype=torch.float32, device="cpu"), x_nchw, alpha=1 / scale, out=shifted)
        out_nchw: Tensor = torch.ops.onednn.qconv2d_pointwise(
            shifted.to(torch.uint8),
            scale,
            zero,
            self._packed,
            self._scale_o,
            self._zero_o,
            None,
            [1, 1],
            [1, 1],
            [1, 1],
            1,
            1.0,
            0,
            torch.float32,
            "relu",
            [],
            "",
        )
        return out_nchw
