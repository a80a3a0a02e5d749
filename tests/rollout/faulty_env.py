"""An environment that fails on demand: its action says how."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.errors import EnvironmentCrashed

ENV_ID = "tests.rollout.faulty_env:Faulty-v0"
FAULTS = ("raise", "kill", "hang", "pipe", "shape", "nan", "error", "crash", "exit")
SIDE = 16


class FaultyEnv(gym.Env[Any, Any]):
    """Pictures that tell the environment, the episode's first random number and the step; action 0 is a step, action k fault k.

    Args:
        number: of this environment, the red channel.
        length: of an episode.
        game: start a process, as a game engine would be, that nobody ends.
        slow: seconds that a step takes.
        refuse_resets: fail in every reset.
        opened: a file that every reset makes.
        awaited: a file that every step waits for.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        number: int = 0,
        length: int = 10,
        game: bool = False,
        slow: float = 0.0,
        refuse_resets: bool = False,
        opened: Path | None = None,
        awaited: Path | None = None,
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(1 + len(FAULTS))
        self.number, self.length, self.slow, self.refuse_resets = number, length, slow, refuse_resets
        self.opened, self.awaited = opened, awaited
        self.drawn = self.steps = 0
        self.game = subprocess.Popen(["sleep", "1000"]) if game else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.refuse_resets:
            raise OSError("no disk")
        if self.opened is not None:
            self.opened.touch()
        self.drawn, self.steps = int(self.np_random.integers(256)), 0
        return self.render(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.slow)
        while self.awaited is not None and not self.awaited.exists():
            time.sleep(0.01)
        self.steps += 1
        fault = FAULTS[int(action) - 1] if action else ""
        self.fail(fault)
        frame = self.render()
        if fault == "shape":
            frame = frame[:5]
        reward = float("nan") if fault == "nan" else 1.0
        info = {"error": "the server said no"} if fault == "error" else {}
        return frame, reward, self.steps >= self.length, False, info

    def fail(self, fault: str) -> None:
        if fault == "raise":
            raise ZeroDivisionError("planted")
        if fault == "crash":
            raise EnvironmentCrashed("the game is gone")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exit":
            os._exit(3)
        if fault == "pipe":
            os.closerange(3, 1024)
        while fault == "hang":
            time.sleep(1)

    def render(self) -> np.ndarray:
        frame = np.zeros((SIDE, SIDE, 3), np.uint8)
        frame[:] = self.number, self.drawn, self.steps
        return frame

    def processes(self) -> list[int]:
        return [os.getpid(), *([self.game.pid] if self.game else [])]


if "Faulty-v0" not in gym.registry:
    gym.register("Faulty-v0", entry_point=FaultyEnv)
