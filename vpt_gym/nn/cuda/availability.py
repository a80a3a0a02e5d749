"""Whether Triton's kernels run on a device: what can be said beforehand, and what only a first launch tells."""

from __future__ import annotations

import subprocess
from typing import Final

import torch

from vpt_gym.config import FRAME_SIZE
from vpt_gym.nn.attention import Block
from vpt_gym.nn.cuda import attention, kernels
from vpt_gym.nn.cuda.frames import TritonFrameEncoder
from vpt_gym.nn.cuda.language import MISSING, TritonError
from vpt_gym.nn.net import VPTNet

__all__ = ["probe", "rehearse", "unavailable"]

CAPABILITY: Final = (8, 0)
"""Ampere: the oldest GPUs with bfloat16, and the oldest that every supported release of Triton compiles for."""

_FAILURES: Final = (TritonError, RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError)
"""What a missing compiler, a driver too old, a read-only cache, too large a kernel or a broken installation of Triton raise."""


def unavailable(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on a device, in words; None where nothing is known to be in the way.

    Costs next to nothing and starts nothing on the device.
    """
    if device.type != "cuda":
        return f"{device.type} is not a CUDA device"
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "this build of torch sees no NVIDIA GPU"
    if MISSING is not None:
        return MISSING
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        have, need = (".".join(map(str, numbers)) for numbers in (capability, CAPABILITY))
        return f"the GPU has compute capability {have}, and {need} is needed"
    return None


def probe(device: torch.device) -> str | None:
    """`unavailable`, and then one small kernel that is compiled and run: the reason in words if that fails, else None.

    Triton needs a C compiler, a driver that knows its code and a folder to write to, and says so at the first launch.
    """
    reason = unavailable(device)
    if reason is not None:
        return reason
    bytes_nhwc = torch.arange(256, dtype=torch.uint8, device="cpu").view(1, 16, 16, 1)
    try:
        numbers_nhwc = kernels.frames_to_nhwc(bytes_nhwc.to(device), torch.float32)[..., :1].cpu()
    except _FAILURES as error:
        return f"Triton's first kernel failed ({_words(error)})"
    if not torch.equal(numbers_nhwc, bytes_nhwc.float() / 255):
        return "Triton's first kernel gave wrong numbers"
    return None


def rehearse(net: VPTNet, frames: TritonFrameEncoder) -> str | None:
    """Runs every kernel once in the network's own sizes and precision: the reason in words if one fails, else None.

    Args:
        net: a network on a GPU, of which nothing is changed.
        frames: its convolutional half as kernels.
    """
    config, device = net.config, net.device
    block = net.blocks[0]
    assert isinstance(block, Block)
    one_bhd = torch.zeros(1, config.heads, config.head_size, device=device, dtype=net.dtype)
    mix_bhn = torch.zeros(1, config.heads, len(block.attention.relation_basis), device=device, dtype=net.dtype)
    ring_rhmd = torch.zeros(1, config.heads, config.memory, config.head_size, device=device, dtype=net.dtype)
    index_b = torch.zeros(1, device=device, dtype=torch.int64)
    try:
        vectors = frames(torch.zeros(1, FRAME_SIZE, FRAME_SIZE, 3, device=device, dtype=torch.uint8))
        mixed_bhd = attention.attend_ring(
            one_bhd, one_bhd, one_bhd, mix_bhn, block.attention.relation_basis, ring_rhmd, ring_rhmd.clone(),
            index_b, index_b + 1, index_b,
        )  # fmt: skip
        finite = bool(vectors.isfinite().all() & mixed_bhd.isfinite().all())
    except _FAILURES as error:
        return f"a kernel of Triton failed ({_words(error)})"
    return None if finite else "Triton's kernels gave numbers that are not finite"


def _words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
