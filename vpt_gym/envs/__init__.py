"""Well-known pixel environments that obey Gymnasium. Importing it registers `vpt_gym/Minecraft-v0`, and loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpt_gym.envs.action import FlattenDictAction
from vpt_gym.envs.registration import register_environments
from vpt_gym.providers import Provider, register_provider

if TYPE_CHECKING:
    from vpt_gym.envs.minecraft.env import MinecraftEnv

__all__ = ["FlattenDictAction", "MinecraftEnv", "Provider", "register_provider"]

register_environments()


def __getattr__(name: str) -> Any:
    if name == "MinecraftEnv":  # behind it lies torch, which looking up an id need not wait for
        from vpt_gym.envs.minecraft.env import MinecraftEnv

        return MinecraftEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
