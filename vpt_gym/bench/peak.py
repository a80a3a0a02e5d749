"""The machine's own limit: plain 3x3 convolutions of the network's shapes, in the same run, precision and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vpt_gym.precision import DTYPES, arithmetic

__all__ = ["SHAPES", "Convolution"]

SHAPES = ((128, 64), (256, 32), (256, 16))
"""Channels and height (and width) of the convolutions of VPT's 2x network that hold nine tenths of its FLOPs."""

FRAMES = {"cpu": 8, "cuda": 256}
"""Frames in one convolution: enough to fill the device, whatever the batch that is measured beside it."""
CALLS = {"cpu": 1, "cuda": 10}
"""Convolutions in one timed step: one alone is too short on a GPU to be timed from outside."""


@dataclass(frozen=True)
class Convolution:
    """A channels-last 3x3 convolution with padding and without bias, from `channels` to as many.

    Attributes:
        precision: a key of `DTYPES`.
        channels: of input and output.
        size: height and width.
        device: where it runs.
    """

    precision: str
    channels: int
    size: int
    device: torch.device

    @property
    def name(self) -> str:
        """How records call it."""
        return f"{self.precision} 3x3 convolution, {self.channels} channels at {self.size}x{self.size}"

    @property
    def flops(self) -> int:
        """FLOPs of one step: 2 x multiply-adds of a direct convolution."""
        kind = self.device.type
        return CALLS[kind] * FRAMES[kind] * 2 * 9 * self.channels**2 * self.size**2

    def open(self) -> Callable[[], object]:
        """Makes the tensors; the step returns when the result is there."""
        dtype = DTYPES[self.precision]
        frames_nchw = _random((FRAMES[self.device.type], self.channels, self.size, self.size)).to(self.device, dtype)
        frames_nchw = frames_nchw.contiguous(memory_format=torch.channels_last)
        weight = (_random((self.channels, self.channels, 3, 3)) * (2 / (9 * self.channels)) ** 0.5).to(
            self.device, dtype
        )
        weight = weight.contiguous(memory_format=torch.channels_last)

        def step() -> Tensor:
            with arithmetic(self.device, self.precision):
                for _ in range(CALLS[self.device.type]):
                    result = F.conv2d(frames_nchw, weight, padding=1)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return result

        return step


def _random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
