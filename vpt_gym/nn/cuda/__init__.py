"""Kernels and graphs for NVIDIA GPUs. Imported without a GPU and without Triton, it can say why it is of no use there.

Triton, which takes a quarter of a second to import, is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vpt_gym.nn.cuda.graph import StepGraphs

if TYPE_CHECKING:
    from vpt_gym.nn.cuda.attention import attend_single
    from vpt_gym.nn.cuda.availability import unavailable
    from vpt_gym.nn.cuda.frames import TritonFrameEncoder

__all__ = ["StepGraphs", "TritonFrameEncoder", "attend_single", "unavailable"]

_HOMES = {
    "TritonFrameEncoder": "vpt_gym.nn.cuda.frames",
    "attend_single": "vpt_gym.nn.cuda.attention",
    "unavailable": "vpt_gym.nn.cuda.availability",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
