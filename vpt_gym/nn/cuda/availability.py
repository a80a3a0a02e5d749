"""Why Triton's kernels cannot run on a device, as far as it can be said beforehand; `trial` tells the rest."""

from __future__ import annotations

from typing import Final

import torch

from vpt_gym.nn.cuda.language import MISSING

__all__ = ["unavailable"]

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
