"""The ids under which `gymnasium.make` finds this package's environments."""

from __future__ import annotations

from typing import Final

import gymnasium as gym

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
            entry_point="vpt_gym.envs.minecraft:make_minecraft",
            # The same seed opens the same world, but its animals and its weather go their own ways.
            nondeterministic=True,
            # Gymnasium 1.4's checker fails at the first step if the first reset raised, and a game may fail to come up.
            disable_env_checker=True,
        )
