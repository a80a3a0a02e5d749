"""VPT latents as Gymnasium observations: reinforcement learning on a frozen, stateful visual network."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from vpt_gym import vector
from vpt_gym.config import VPTConfig
from vpt_gym.encoder import LatentStream, VPTEncoder, load_encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.wrappers.single import VPTLatentObservation

__all__ = [
    "LatentStream",
    "VPTConfig",
    "VPTEncoder",
    "VPTGymError",
    "VPTLatentObservation",
    "load_encoder",
    "sb3",
    "vector",
]

try:
    __version__ = version("vpt-gym")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> ModuleType:
    # Stable-Baselines3 is slow to import and not everybody's: it waits until somebody asks for `vpt_gym.sb3`.
    if name == "sb3":
        return importlib.import_module("vpt_gym.sb3")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
