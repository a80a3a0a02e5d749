"""The convolutional half on a CPU: the same function as `nn.cnn.FrameEncoder`, arranged for the cache and for oneDNN."""

from __future__ import annotations

import threading
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.config import FRAME_SIZE
from vpt_gym.nn.cnn import FrameEncoder, ResidualBlock, Stack
from vpt_gym.nn.cpu.norm import normalise
from vpt_gym.nn.cpu.onednn import PackedConv, PackedLinear
from vpt_gym.nn.cpu.scratch import Scratch
from vpt_gym.nn.cpu.winograd import WinogradConv, tiles

__all__ = ["CPUFrameEncoder"]

_LARGEST_ACTIVATION: Final = 8 * 2**20
"""Bytes of the largest activation in a pass through one stack: about a core's share of the last-level cache. Larger
passes wait for memory, the first stack's above all, whose activations are the largest and whose convolution is the cheapest."""

_FRAMES: Final = 16
"""Frames that go from one stack to the next together: enough for the passes of the last one, few enough to bound the memory."""


class _Stack:
    """One `Stack`, for as many frames at a time as the cache holds."""

    def __init__(self, stack: Stack, size: int) -> None:
        weight = stack.first.weight
        widest = max(weight.shape[0] * size**2, weight.shape[1] * size**2)
        self._frames = max(1, _LARGEST_ACTIVATION // (widest * weight.element_size()))
        self._pool_norm = stack.pool_norm
        self._opening: PackedConv | None = None
        self._first: WinogradConv | None = None
        example_nhw = self._frames, size, size
        if isinstance(stack.first_norm, nn.GroupNorm):
            self._first = WinogradConv(stack.first_norm, weight, example_nhw)
        else:
            self._opening = PackedConv(weight, stack.first.bias, example_nhw, groups=1)
        halved_nhw = self._frames, size // 2, size // 2
        self._blocks: list[tuple[WinogradConv, WinogradConv]] = []
        for block in stack.blocks:
            assert isinstance(block, ResidualBlock)
            conv0 = WinogradConv(block.norm0, block.conv0.weight, halved_nhw)
            conv1 = WinogradConv(block.norm1, block.conv1.weight, halved_nhw)
            self._blocks.append((conv0, conv1))

    def __call__(self, x_nhwc: Tensor, scratch: Scratch) -> Tensor:
        """[N, H, W, in] -> [N, H/2, W/2, out]."""
        pieces = [self._pass(piece_nhwc, scratch) for piece_nhwc in torch.split(x_nhwc, self._frames)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _pass(self, x_nhwc: Tensor, scratch: Scratch) -> Tensor:
        if self._opening is not None:
            x_nhwc = self._opening(x_nhwc)
        else:
            assert self._first is not None
            # From tiles back to rows.
            x_nhwc = self._first(x_nhwc, scratch).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x_nchw = F.max_pool2d(x_nhwc.permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1).relu_()
        x_nhwc = normalise(self._pool_norm, x_nchw.permute(0, 2, 3, 1))
        for conv0, conv1 in self._blocks:
            tiles(x_nhwc).add_(conv1(conv0(x_nhwc, scratch), scratch))
        return x_nhwc


class CPUFrameEncoder(nn.Module):
    """Frames to vectors, each frame by itself; made from a `FrameEncoder`, which may be thrown away then."""

    def __init__(self, frames: FrameEncoder) -> None:
        super().__init__()
        size, self._stacks = FRAME_SIZE, []
        for stack in frames.stacks:
            assert isinstance(stack, Stack)
            self._stacks.append(_Stack(stack, size))
            size //= 2
        self._dense_norm, self._linear_norm = frames.dense_norm, frames.linear_norm
        self._dense, self._linear = PackedLinear.of(frames.dense), PackedLinear.of(frames.linear)
        self._dtype = frames.dense.weight.dtype
        self._of_thread = threading.local()

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, 128, 128, 3] -> [N, hidden_size] in the weights' precision."""
        scratch = getattr(self._of_thread, "scratch", None)
        if scratch is None:
            scratch = self._of_thread.scratch = Scratch()
        pieces = [self._convolved(piece_nhwc, scratch) for piece_nhwc in torch.split(frames_nhwc, _FRAMES)]
        x_nf = F.relu(self._dense(self._dense_norm(torch.cat(pieces))))
        out: Tensor = F.relu(self._linear(self._linear_norm(x_nf)))
        return out

    def _convolved(self, frames_nhwc: Tensor, scratch: Scratch) -> Tensor:
        """uint8 [N, 128, 128, 3] -> [N, flat_size]."""
        x_nhwc = frames_nhwc.to(torch.float32).div_(255).to(self._dtype)
        for stack in self._stacks:
            x_nhwc = stack(x_nhwc, scratch)
        # The checkpoint's dense layer expects the channels outermost.
        return x_nhwc.permute(0, 3, 1, 2).flatten(1)
