"""Whether Triton's kernels run on a device: what can be said beforehand, and what only a first launch tells."""

from __future__ import annotations

import subprocess
from typing import Final

import torch

from vpt_gym.nn.cuda import kernels
from vpt_gym.nn.cuda.language import MISSING, TritonError

__all__ = ["probe", "unavailable"]

CAPABILITY: Final = (8, 0)
"""Ampere: the oldest GPUs with bfloat16, and the oldest that every supported release of Triton compiles for."""


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
    bytes_nhwc = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    try:
        numbers_nhwc = kernels.frames_to_nhwc(bytes_nhwc.to(device), torch.float32)[..., :1].cpu()
    # What a missing compiler, a driver too old, a read-only cache or a broken installation of Triton raise.
    except (TritonError, RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        return f"Triton's first kernel failed ({words[:200]})"
    if not torch.equal(numbers_nhwc, bytes_nhwc.float() / 255):
        return "Triton's first kernel gave wrong numbers"
    return None
