"""How a run looks in a terminal, and in a log file."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vpt_gym.errors import VPTGymError
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.report import Facts, Progress, Reporter, Score

__all__ = ["OutputError", "TerminalReporter", "duration", "say", "score_words"]

LINE_EVERY = 0.1
"""Without a terminal, a line for every tenth of the training,"""
LINE_SECONDS = 60.0
"""and at least one a minute."""


class OutputError(VPTGymError):
    """Standard output takes nothing more: `| head` has seen enough, or its disk is full."""


def say(text: str = "") -> None:
    """Prints a line at once.

    Raises:
        OutputError: nobody takes it. What is printed later goes nowhere.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Python writes what it still holds at its end once more, and would complain without a name.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from error


class TerminalReporter(Reporter):
    """Prints a run: a progress bar on a terminal, now and then a line elsewhere.

    Args:
        config: the training that is about to start; None for an evaluation alone.
    """

    def __init__(self, config: TrainingConfig | None = None) -> None:
        self.config = config
        self.live = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._line_steps = 0
        self._line_seconds = 0.0

    def __enter__(self) -> TerminalReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()

    def starting(self, facts: Facts) -> None:
        """Print what is about to happen."""
        if self.config is None:
            return
        config = self.config
        arguments = "".join(f", {key}={value!r}" for key, value in config.env_kwargs.items())
        head = " - ".join(str(width) for width in config.net_arch) or "linear"
        say(f"{config.env_id}: {config.algo.upper()} on latents, {config.planned_steps:,} steps")
        say(f"  environment  {config.n_envs} in parallel{arguments}, seed {config.seed}")
        say(f"  encoder      {facts.encoder}")
        if facts.untrained:
            say("               UNTRAINED: random weights, an architecture without anything learned")
        say(f"  head         {head}, on the CPU; torch uses {_plural(facts.threads, 'thread')}")
        say(f"  run folder   {facts.folder}")

    def baseline(self, score: Score) -> None:
        """Print the random policy's score."""
        self._close_bar()
        say(f"  random       {score_words(score)}")

    def progress(self, progress: Progress) -> None:
        """Move the bar, or print a line when it is time."""
        mean = "-" if progress.mean_return is None else f"{progress.mean_return:+.1f}"
        length = "" if progress.mean_length is None else f", {progress.mean_length:.0f} steps long"
        faults = f", {_plural(progress.faults, 'fault')}" * bool(progress.faults)
        gpu = "" if progress.gpu_bytes is None else f", GPU {progress.gpu_bytes / 1e9:.1f} GB"
        share = f", encoder {progress.encoder_share:.0%}" if progress.encoder_share else ""
        pace = f"{progress.frames_per_second:.0f} frames/s"
        words = f"{pace}{share}{gpu}, return {mean}{length}{faults}, {_clock(progress.seconds_left)} left"
        if self.live:
            self._move("training", progress.steps, progress.total, "steps", words)
        elif (
            progress.steps - self._line_steps >= LINE_EVERY * progress.total
            or progress.seconds - self._line_seconds >= LINE_SECONDS
            or self._line_steps < progress.steps == progress.total
        ):
            self._line_steps, self._line_seconds = progress.steps, progress.seconds
            say(f"  training     {progress.steps:,} of {progress.total:,} steps, {words}")

    def playing(self, what: str, done: int, total: int) -> None:
        """Move the bar of an evaluation."""
        if self.live:
            self._move(what, done, total, "episodes")

    def _move(self, what: str, done: int, total: int, unit: str, words: str = "") -> None:
        if self._bar is None:
            if done >= total:  # SB3 tells the end of the training once more
                return
            form = "{desc} {percentage:3.0f}%|{bar}| {n:,}/{total:,} {unit}{postfix}"
            leave = what == "training"
            self._bar = tqdm(
                total=total, desc=f"  {what:<12}", unit=unit, bar_format=form, leave=leave, dynamic_ncols=True
            )
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()
        if done >= total:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def score_words(score: Score) -> str:
    """A score as people read it."""
    return f"{score.mean:+.1f} ± {score.std:.1f} mean return over {_plural(len(score.returns), 'episode')}"


def duration(seconds: float) -> str:
    """Seconds as `42 s` or `3 min 05 s` or `2 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
