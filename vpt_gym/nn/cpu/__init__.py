"""The network on a CPU: Winograd's convolutions, and matrices laid out once for oneDNN."""

from __future__ import annotations

from torch import nn

from vpt_gym.nn.attention import Block
from vpt_gym.nn.cpu.attention import attend_single
from vpt_gym.nn.cpu.frames import CPUFrameEncoder, not_in_tiles
from vpt_gym.nn.cpu.onednn import PackedLinear, unavailable

__all__ = ["CPUFrameEncoder", "attend_single", "not_in_tiles", "pack", "packed", "unavailable"]


def pack(block: Block) -> None:
    """Lays a block's matrices out for oneDNN, in place; query, key, value and relation become one."""
    block.attention.fused = PackedLinear.of(block.attention.fuse())
    block.attention.output = packed(block.attention.output)
    block.attention.single_step = attend_single
    block.mlp_in, block.mlp_out = packed(block.mlp_in), packed(block.mlp_out)


def packed(linear: nn.Module) -> PackedLinear:
    """The same function as an `nn.Linear`."""
    assert isinstance(linear, nn.Linear)
    return PackedLinear.of(linear)
