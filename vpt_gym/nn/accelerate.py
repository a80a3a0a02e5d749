"""From the network as it is defined to the network as a device computes it fastest."""

from __future__ import annotations

import logging

from vpt_gym.nn import cpu, cuda
from vpt_gym.nn.attention import Block
from vpt_gym.nn.cnn import FrameEncoder
from vpt_gym.nn.net import VPTNet

__all__ = ["accelerate"]

logger = logging.getLogger("vpt_gym")


def accelerate(net: VPTNet) -> str:
    """Replaces parts of a network, in place, by faster ones for its device and precision that do the same.

    Where they cannot be used the network stays as it is, and one line of the log says why.

    Args:
        net: a network as `VPTNet.from_tensors` made it.

    Returns:
        How the network is computed, in words.
    """
    reason = _on_cuda(net) if net.device.type == "cuda" else cpu.unavailable(net)
    if reason is not None:
        logger.warning(
            "The network is computed by torch's own operators, with the same latents, but slower: %s.", reason
        )
        return "torch's own operators"
    return "cuDNN's convolutions, Triton's kernels" if net.device.type == "cuda" else cpu.accelerate(net)


def _on_cuda(net: VPTNet) -> str | None:
    """Puts the kernels in, if all of them run here; else says why not, and leaves the network as it is."""
    reason = cuda.probe(net.device)
    if reason is not None:
        return reason
    assert isinstance(net.cnn, FrameEncoder)
    frames = cuda.TritonFrameEncoder(net.cnn)
    reason = cuda.rehearse(net, frames)
    if reason is not None:
        return reason
    net.cnn = frames
    for block in net.blocks:
        assert isinstance(block, Block)
        block.attention.fuse()
        block.attention.single_step = cuda.attend_single
    return None
