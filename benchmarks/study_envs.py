"""Two environments for the study in docs/evidence.md, beside ViZDoom's: one that needs memory, and one far from first person.

    pip install minigrid crafter
    PYTHONPATH=benchmarks vpt-gym compare study_envs:vpt_gym_study/Memory-v0 study_envs:vpt_gym_study/Crafter-v0 ...

`Memory` is MiniGrid's MemoryS7: what is seen at the start tells where to turn at the end of a corridor. `Crafter` is Crafter,
which speaks the old Gym's API.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Memory(gym.Env[Any, Any]):
    """MiniGrid's MemoryS7 as a picture of 63 x 63 pixels, seen by the agent; of its seven actions the three that move."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (63, 63, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        from minigrid.envs import MemoryEnv
        from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

        self.render_mode = render_mode
        self._game = ImgObsWrapper(RGBImgPartialObsWrapper(MemoryEnv(size=7, render_mode=render_mode), tile_size=9))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new maze."""
        super().reset(seed=seed, options=options)
        return self._game.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turns left, turns right, or goes on."""
        frame, reward, terminated, truncated, info = self._game.step(int(action))
        return frame, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """The maze from above."""
        return self._game.render()


class Crafter(gym.Env[Any, Any]):
    """Crafter at 64 x 64 pixels: an episode is terminated by death and truncated after 10,000 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(17)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._game: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new world: Crafter's own seed is that of its maker, so the maker is called again."""
        import crafter

        super().reset(seed=seed, options=options)
        self._game = crafter.Env(seed=int(self.np_random.integers(2**31)))
        return self._game.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Crafter says by a discount of 0 that the player has died."""
        frame, reward, done, info = self._game.step(int(action))
        died = info["discount"] == 0
        return (
            frame,
            float(reward),
            bool(done and died),
            bool(done and not died),
            {"achievements": info["achievements"]},
        )

    def render(self) -> Any:
        """The world around the player, as it is observed."""
        return self._game.render()


gym.register("vpt_gym_study/Memory-v0", Memory)
gym.register("vpt_gym_study/Crafter-v0", Crafter)
