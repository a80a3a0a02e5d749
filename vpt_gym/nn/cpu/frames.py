"""The convolutional half on a CPU by Winograd's algorithm: the same function as `nn.cnn.FrameEncoder`."""

from __future__ import annotations

import threading
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.nn.cnn import FrameEncoder, ResidualBlock, Stack
from vpt_gym.nn.cpu.norm import normalise
from vpt_gym.nn.cpu.onednn import PackedConv, PackedLinear
from vpt_gym.nn.cpu.scratch import Scratch
from vpt_gym.nn.cpu.winograd import TILE, WinogradConv, tiles

__all__ = ["CPUFrameEncoder", "not_in_tiles"]

_LARGEST_ACTIVATION: Final = 8 * 2**20
"""Bytes of the largest activation in a pass through one stack: about a core's share of the last-level cache. Larger
passes wait for memory, the first stack's above all, whose activations are the largest and whose convolution is the cheapest."""

_FRAMES: Final = 16
"""Frames that go from one stack to the next together: enough for the passes of the last one, few enough to bound the memory."""


def not_in_tiles(frame_size: int) -> str | None:
    """Why frames of this size cannot be cut into Winograd's tiles behind every stack; None when they can."""
    side = 8 * TILE
    if frame_size % side:
        return f"Winograd's tiles do not divide frames of {frame_size}x{frame_size}: the side is no multiple of {side}"
    return None


class _Stack:
    """One `Stack`, for as many frames at a time as the cache holds."""

    def __init__(self, stack: Stack, size: int) -> None:
        weight = stack.first.weight
        widest = max(weight.shape[0] * size**2, weight.shape[1] * size**2)
        self._frames = max(1, _LARGEST_ACTIVATION // (widest * weight.element_size()))
        self._pool_norm = stack.pool_norm
        self._opening: PackedConv | None = None
        self._first: WinogradConv | None = None
        if isinstance(stack.first_norm, nn.GroupNorm):
            self._first = WinogradConv(stack.first_norm, weight, size)
        else:
            self._opening = PackedConv(weight, stack.first.bias, (self._frames, size, size), groups=1)
        self._blocks: list[tuple[WinogradConv, WinogradConv]] = []
        for block in stack.blocks:
            assert isinstance(block, ResidualBlock)
            conv0 = WinogradConv(block.norm0, block.conv0.weight, size // 2)
            conv1 = WinogradConv(block.norm1, block.conv1.weight, size // 2)
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

    def __init__(self, frames: FrameEncoder, frame_size: int) -> None:
        super().__init__()
        self._stacks = []
        for i, stack in enumerate(frames.stacks):
            assert isinstance(stack, Stack)
            self._stacks.append(_Stack(stack, frame_size >> i))
        self._dense_norm, self._linear_norm = frames.dense_norm, frames.linear_norm
        self._dense, self._linear = PackedLinear.of(frames.dense), PackedLinear.of(frames.linear)
        self._dtype = frames.dense.weight.dtype
        self._of_thread = threading.local()

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> [N, hidden_size] in the weights' precision."""
        scratch = getattr(self._of_thread, "scratch", None)
        if scratch is None:
            scratch = self._of_thread.scratch = Scratch()
        pieces = [self._convolved(piece_nhwc, scratch) for piece_nhwc in torch.split(frames_nhwc, _FRAMES)]
        x_nf = F.relu(self._dense(self._dense_norm(torch.cat(pieces))))
        out: Tensor = F.relu(self._linear(self._linear_norm(x_nf)))
        return out

    def _convolved(self, frames_nhwc: Tensor, scratch: Scratch) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> [N, flat_size]."""
        x_nhwc = frames_nhwc.to(torch.float32).div_(255).to(self._dtype)
        for stack in self._stacks:
            x_nhwc = stack(x_nhwc, scratch)
        # The checkpoint's dense layer expects the channels outermost.
        return x_nhwc.permute(0, 3, 1, 2).flatten(1)
