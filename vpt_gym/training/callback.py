"""What happens at every environment step of the training: count, report, look for Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any, Final, NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback

from vpt_gym.running.stopping import StopSignal
from vpt_gym.training.report import Progress, Reporter
from vpt_gym.wrappers.sb3 import VecVPTLatent

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
        latents: the environments, which know of faults and of the encoder's time.
    """

    def __init__(
        self, total: int, reporter: Reporter, stop: StopSignal, between: Callable[[], None], latents: VecVPTLatent
    ) -> None:
        super().__init__()
        self.latents = latents
        self.fleet: Any = latents.unwrapped
        self.earlier = 0
        self.total = total
        self.reporter = reporter
        self.stop = stop
        self.between = between
        self.episodes: list[Episode] = []
        self.began = self._reported = time.monotonic()
        self.seconds = 0.0
        self._faults, self._encoding = 0, 0.0

    def _on_training_start(self) -> None:
        self.began = self._reported = time.monotonic()
        self.earlier = self.num_timesteps
        self._faults, self._encoding = self.fleet.faults, self.latents.encoding_seconds

    def _on_rollout_start(self) -> None:
        self.between()

    def _on_rollout_end(self) -> None:
        self.logger.record("rollout/faults", self.faults)
        self.logger.record("time/encoder_share", self.encoder_share)

    @property
    def faults(self) -> int:
        """Environments that failed in this training and were made anew."""
        return int(self.fleet.faults - self._faults)

    @property
    def encoder_share(self) -> float:
        """Of the training's time."""
        seconds = time.monotonic() - self.began
        return (self.latents.encoding_seconds - self._encoding) / seconds if seconds > 0 else 0.0

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
        last = self.episodes[-WINDOW:]
        device = self.latents.encoder.device
        progress = Progress(
            steps=self.num_timesteps,
            total=self.total,
            seconds=self.seconds,
            mean_return=fmean(episode.reward for episode in last) if last else None,
            mean_length=fmean(episode.length for episode in last) if last else None,
            faults=self.faults,
            encoder_share=self.encoder_share,
            gpu_bytes=torch.cuda.memory_allocated(device) if device.type == "cuda" else None,
            earlier=self.earlier,
        )
        self.reporter.progress(progress)
