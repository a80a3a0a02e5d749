"""A pixel environment small enough to train on in a second: press left or right where the light is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

ENV_ID = "tests.training.pixel_env:Light-v0"
LENGTH = 8


class LightEnv(gym.Env[Any, Any]):
    """64x64 pixels, one half lit; +1 for the action that names the half, -1 otherwise; eight steps.

    Args:
        as_dict: observe a Dict with the image, a compass and the number of the room.
        continuous: act in a Box.
        nvec: act in a MultiDiscrete of these numbers, of which the first counts.
        die_after: end the whole process in this step of the first episode, as a crashing game engine does.
        odd: what is not finite from step `odd_from` of an episode on: `reward`, `compass`, or nothing.
        odd_from: see `odd`.
        odd_value: the value, as a text that float() reads.
        crash: a file; the step that finds it removes it and raises.
        render_mode: `rgb_array`, or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        as_dict: bool = False,
        continuous: bool = False,
        die_after: int | None = None,
        render_mode: str | None = None,
        frame_skip: int = 1,
        odd: str = "",
        odd_from: int = 0,
        odd_value: str = "nan",
        crash: str = "",
        nvec: Sequence[int] = (),
    ) -> None:
        image = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        compass = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = (
            gym.spaces.Dict({"image": image, "compass": compass, "room": gym.spaces.Discrete(3)}) if as_dict else image
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gym.spaces.Discrete(2)
        if nvec:
            self.action_space = gym.spaces.MultiDiscrete(list(nvec))
        self.as_dict = as_dict
        self.die_after = die_after
        self.render_mode = render_mode
        self.odd, self.odd_from, self.odd_value = odd, odd_from, float(odd_value)
        self.crash = Path(crash) if crash else None
        self.lit = 0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.lit = int(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == self.die_after:
            os._exit(3)
        if self.crash is not None and self.crash.exists():
            self.crash.unlink()
            raise OSError("planted")
        chosen = int(np.asarray(action).reshape(-1)[0] > 0)
        reward = 1.0 if chosen == self.lit else -1.0
        if self.odd == "reward" and self.steps >= self.odd_from:
            reward = self.odd_value
        self.lit = int(self.np_random.integers(2))
        return self._observe(), reward, False, self.steps >= LENGTH, {}

    def render(self) -> np.ndarray:
        frame = np.full((64, 64, 3), 40, np.uint8)
        frame[:, 32 * self.lit : 32 * (self.lit + 1)] = 220
        return frame

    def _observe(self) -> Any:
        if not self.as_dict:
            return self.render()
        compass = np.array([self.steps / LENGTH, 0], np.float32)
        if self.odd == "compass" and self.steps >= self.odd_from:
            compass[1] = self.odd_value
        return {"image": self.render(), "compass": compass, "room": self.steps % 3}


if "Light-v0" not in gym.registry:
    gym.register("Light-v0", entry_point=LightEnv)
