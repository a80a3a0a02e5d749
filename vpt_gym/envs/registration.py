"""The ids under which `gymnasium.make` finds this package's environments, and the packages whose ids it knows."""

from __future__ import annotations

from typing import Final

import gymnasium as gym

from vpt_gym.providers import Provider, register_provider

__all__ = ["MINECRAFT", "register_environments"]

MINECRAFT: Final = "vpt_gym/Minecraft-v0"


def register_environments() -> None:
    """Registers the environments, once in a process; what they are made of is imported when one is made.

    Gymnasium 1.0 gave up its plugin entry points, so some import has to do this: `import vpt_gym`, or the module in front
    of the id, `gymnasium.make("vpt_gym.envs:vpt_gym/Minecraft-v0")`, which works in worker processes too.
    """
    if MINECRAFT not in gym.registry:
        gym.register(
            MINECRAFT,
            entry_point="vpt_gym.envs.minecraft.env:make_minecraft",
            # The same seed opens the same world, but its animals and its weather go their own ways.
            nondeterministic=True,
            # Gymnasium 1.4's checker fails at the first step if the first reset raised, and a game may fail to come up.
            disable_env_checker=True,
        )
    register_provider("vpt_gym/Minecraft", Provider("vpt_gym.envs", check=_check_minecraft))
    register_provider(
        "Vizdoom", Provider("vizdoom.gymnasium_wrapper", "pip install 'vpt-gym[vizdoom]'", folder="_vizdoom")
    )


def _check_minecraft() -> None:
    from vpt_gym.envs.minecraft.engine import check_engine  # behind it lies torch, which registering need not wait for

    check_engine()
