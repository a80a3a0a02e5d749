"""The network on a CPU: Winograd's and oneDNN's convolutions, and matrices laid out once."""

from __future__ import annotations

from torch import nn

from vpt_gym.nn.attention import Block
from vpt_gym.nn.cnn import FrameEncoder, Stack
from vpt_gym.nn.cpu import onednn
from vpt_gym.nn.cpu.frames import CPUFrameEncoder
from vpt_gym.nn.cpu.onednn import PackedLinear
from vpt_gym.nn.net import VPTNet

__all__ = ["accelerate", "unavailable"]

_WINOGRAD_CHANNELS = 128
"""Channels of the first stack from which Winograd's algorithm pays; in narrower networks its transforms cost what it saves."""


def unavailable(net: VPTNet) -> str | None:
    """Why the network cannot be computed this way, or None when it can."""
    return onednn.unavailable(net.dtype)


def accelerate(net: VPTNet) -> str:
    """Puts the parts of this package in place of the network's own, in place, and says in words what they are."""
    for block in net.blocks:
        assert isinstance(block, Block)
        block.attention.fused = PackedLinear.of(block.attention.fuse())
        block.attention.output = _packed(block.attention.output)
        block.mlp_in, block.mlp_out = _packed(block.mlp_in), _packed(block.mlp_out)
    net.last = _packed(net.last)
    assert isinstance(net.cnn, FrameEncoder)
    opening = net.cnn.stacks[0]
    assert isinstance(opening, Stack)
    if opening.first.out_channels >= _WINOGRAD_CHANNELS:
        net.cnn = CPUFrameEncoder(net.cnn)
        return "Winograd convolutions, packed matrices"
    return "direct convolutions, packed matrices"


def _packed(linear: nn.Module) -> PackedLinear:
    assert isinstance(linear, nn.Linear)
    return PackedLinear.of(linear)
