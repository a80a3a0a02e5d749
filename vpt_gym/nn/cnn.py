"""The convolutional half: three IMPALA stacks and two dense layers turn a frame into one vector."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.config import VPTConfig

__all__ = ["FrameEncoder", "ResidualBlock", "Stack"]

_LARGEST_ACTIVATION: Final = {"cpu": 16 * 2**20, "cuda": 2 * 2**30}
"""Bytes of the largest activation of frames that run through these operators at once: enough to fill the device, little enough
for a CPU's last-level cache, or to bound a GPU's memory."""


def _conv(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)


def _norm(channels: int) -> nn.GroupNorm:
    """One group: mean and variance over channels and pixels of a frame, scale and shift per channel."""
    return nn.GroupNorm(1, channels)


class ResidualBlock(nn.Module):
    """x + ReLU(conv(norm(ReLU(conv(norm(x)))))): the ReLU comes before the addition, none after (`CnnBasicBlock`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0, self.conv0 = _norm(channels), _conv(channels, channels)
        self.norm1, self.conv1 = _norm(channels), _conv(channels, channels)

    def forward(self, x_nchw: Tensor) -> Tensor:
        y_nchw: Tensor = self.conv0(self.norm0(x_nchw)).relu_()
        y_nchw = self.conv1(self.norm1(y_nchw)).relu_()
        return y_nchw + x_nchw


class Stack(nn.Module):
    """Convolution, 3x3 max pool of stride 2, norm, two residual blocks; halves height and width (`CnnDownStack`)."""

    def __init__(self, in_channels: int, out_channels: int, *, opening: bool) -> None:
        super().__init__()
        # The network's very first convolution reads pixels: it alone has a bias and no norm before it.
        self.first_norm = nn.Identity() if opening else _norm(in_channels)
        self.first = _conv(in_channels, out_channels, bias=opening)
        self.pool_norm = _norm(out_channels)
        self.blocks = nn.ModuleList(ResidualBlock(out_channels) for _ in range(2))

    def forward(self, x_nchw: Tensor) -> Tensor:
        x_nchw = self.first(self.first_norm(x_nchw))
        # The original applies ReLU before the pool. Both keep the order of values, so they commute exactly, and this way
        # round ReLU touches a quarter of the pixels.
        x_nchw = F.max_pool2d(x_nchw, kernel_size=3, stride=2, padding=1).relu_()
        x_nchw = self.pool_norm(x_nchw)
        for block in self.blocks:
            x_nchw = block(x_nchw)
        return x_nchw


class FrameEncoder(nn.Module):
    """Frames to vectors, each frame by itself.

    Source: `ImgObsProcess` and `ImpalaCNN` of OpenAI's Video-Pre-Training (lib/policy.py, lib/impala_cnn.py).
    """

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        sizes = (3, *config.channels)
        self.stacks = nn.ModuleList(Stack(sizes[i], sizes[i + 1], opening=i == 0) for i in range(3))
        self.dense_norm = nn.LayerNorm(config.flat_size)
        self.dense = nn.Linear(config.flat_size, config.dense_size, bias=False)
        self.linear_norm = nn.LayerNorm(config.dense_size)
        self.linear = nn.Linear(config.dense_size, config.hidden_size, bias=False)

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> [N, hidden_size] in the weights' precision."""
        opening = self.stacks[0]
        assert isinstance(opening, Stack)
        of_frame = frames_nhwc.shape[1] * frames_nhwc.shape[2] * opening.first.weight[:, 0, 0, 0].nbytes
        count = max(1, _LARGEST_ACTIVATION[frames_nhwc.device.type] // of_frame)
        return torch.cat([self._pass(piece_nhwc) for piece_nhwc in torch.split(frames_nhwc, count)])

    def _pass(self, frames_nhwc: Tensor) -> Tensor:
        # Dividing in float32, before any rounding to a shorter type, is what VPT was trained with (`ImgPreprocessing`).
        return self.convolve(frames_nhwc.permute(0, 3, 1, 2).to(torch.float32).div_(255).to(self.dense.weight.dtype))

    def convolve(self, x_nchw: Tensor) -> Tensor:
        """Colours [N, 3, frame_size, frame_size] from 0 to 1 -> [N, hidden_size], all at once."""
        for stack in self.stacks:
            x_nchw = stack(x_nchw)
        # `flatten` of a channels-last tensor yields the channel-major order that the checkpoint's dense layer expects.
        x_nf = F.relu(self.dense(self.dense_norm(x_nchw.flatten(1))))
        out: Tensor = F.relu(self.linear(self.linear_norm(x_nf)))
        return out
