"""What happens at every environment step of the training: count, report, look for Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback

from vpt_gym.running.stopping import StopSignal
from vpt_gym.training.report import Progress, Reporter

__all__ = ["Episode", "TrainingCallback"]

WINDOW: Final = 100
"""Episodes that the running mean of the return looks back on."""

REPORT_SECONDS: Final = 0.1


class Episode(NamedTuple):
    """One finished training episode: run steps when it ended, undiscounted return, length in steps."""

    steps: int
    reward: float
    length: int


class TrainingCallback(BaseCallback):
    """Keeps the list of finished episodes and ends the training at a step's border when the user asks.

    Args:
        total: environment steps that the run will take.
        reporter: told the progress at most ten times a second.
        stop: looked at after every step.
        between: called between two updates, and behind the last one.
    """

    def __init__(self, total: int, reporter: Reporter, stop: StopSignal, between: Callable[[], None]) -> None:
        super().__init__()
        self.total = total
        self.reporter = reporter
        self.stop = stop
        self.between = between
        self.episodes: list[Episode] = []
        self.began = self._reported = time.monotonic()
        self.seconds = 0.0

    def _on_training_start(self) -> None:
        self.began = self._reported = time.monotonic()

    def _on_rollout_start(self) -> None:
        self.between()

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):  # ARS keeps them to itself
            if "episode" in info:
                self.episodes.append(
                    Episode(self.num_timesteps, float(info["episode"]["r"]), int(info["episode"]["l"]))
                )
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self._report()
        return not self.stop.requested

    def _on_training_end(self) -> None:
        self.between()
        self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        self.seconds = self._reported - self.began
        last = [episode.reward for episode in self.episodes[-WINDOW:]]
        mean = sum(last) / len(last) if last else None
        self.reporter.progress(Progress(self.num_timesteps, self.total, self.seconds, mean))
