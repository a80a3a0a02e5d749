"""VPT latents as Gymnasium observations: reinforcement learning on a frozen, stateful visual network."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vpt_gym import envs  # registers vpt_gym/Minecraft-v0 with Gymnasium

if TYPE_CHECKING:
    from vpt_gym import encoders, heads, minestudio, offline, sb3, vector
    from vpt_gym.config import VPTConfig
    from vpt_gym.encoders import encoder_from_module, load_encoder, register_source
    from vpt_gym.encoders.loading import load_network
    from vpt_gym.encoders.stream import LatentStream
    from vpt_gym.encoders.vpt import VPTEncoder
    from vpt_gym.errors import VPTGymError
    from vpt_gym.weights import save_checkpoint
    from vpt_gym.wrappers.single import VPTLatentObservation

__all__ = [
    "LatentStream",
    "VPTConfig",
    "VPTEncoder",
    "VPTGymError",
    "VPTLatentObservation",
    "encoder_from_module",
    "encoders",
    "envs",
    "heads",
    "load_encoder",
    "load_network",
    "minestudio",
    "offline",
    "register_source",
    "save_checkpoint",
    "sb3",
    "vector",
]

_HOMES = {
    "LatentStream": "vpt_gym.encoders.stream",
    "VPTConfig": "vpt_gym.config",
    "VPTEncoder": "vpt_gym.encoders.vpt",
    "VPTGymError": "vpt_gym.errors",
    "VPTLatentObservation": "vpt_gym.wrappers.single",
    "encoder_from_module": "vpt_gym.encoders",
    "load_encoder": "vpt_gym.encoders",
    "load_network": "vpt_gym.encoders.loading",
    "register_source": "vpt_gym.encoders",
    "save_checkpoint": "vpt_gym.weights",
}

try:
    __version__ = version("vpt-gym")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    # Nothing else is imported before it is asked for: torch takes seconds, which `vpt-gym --help` need not wait for, and
    # Stable-Baselines3 is not everybody's.
    if name in ("encoders", "heads", "minestudio", "offline", "sb3", "vector"):
        return importlib.import_module(f"vpt_gym.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
