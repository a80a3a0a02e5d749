"""VPT latents as Gymnasium observations: reinforcement learning on a frozen, stateful visual network."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vpt_gym import envs  # registers vpt_gym/Minecraft-v0 with Gymnasium

if TYPE_CHECKING:
    from vpt_gym import heads, minestudio, sb3, vector
    from vpt_gym.config import VPTConfig
    from vpt_gym.encoders.vpt import LatentStream, VPTEncoder, load_encoder
    from vpt_gym.errors import VPTGymError
    from vpt_gym.wrappers.single import VPTLatentObservation

__all__ = [
    "LatentStream",
    "VPTConfig",
    "VPTEncoder",
    "VPTGymError",
    "VPTLatentObservation",
    "envs",
    "heads",
    "load_encoder",
    "minestudio",
    "sb3",
    "vector",
]

_HOMES = {
    "LatentStream": "vpt_gym.encoders.vpt",
    "VPTConfig": "vpt_gym.config",
    "VPTEncoder": "vpt_gym.encoders.vpt",
    "VPTGymError": "vpt_gym.errors",
    "VPTLatentObservation": "vpt_gym.wrappers.single",
    "load_encoder": "vpt_gym.encoders.vpt",
}

try:
    __version__ = version("vpt-gym")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    # Nothing else is imported before it is asked for: torch takes seconds, which `vpt-gym --help` need not wait for, and
    # Stable-Baselines3 is not everybody's.
    if name in ("heads", "minestudio", "sb3", "vector"):
        return importlib.import_module(f"vpt_gym.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
