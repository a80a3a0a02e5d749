"""One cell of a matrix, in a process of its own: the plan comes in on standard input, how it goes leaves on standard output.

    python -m vpt_gym.compare.cell < plan.json

Standard input stays open as long as the process that started it lives. When it closes, the training saves what it has and ends,
as after Ctrl-C: a matrix that is killed leaves no trainings behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from vpt_gym.errors import VPTGymError
from vpt_gym.training import Facts, FleetConfig, Progress, Reporter, Score, TrainingConfig

__all__ = ["main"]

EVERY: float = 1.0
"""Seconds between two lines."""


class _Lines(Reporter):
    """Says how it goes, a line of JSON each time."""

    def __init__(self) -> None:
        self.last = 0.0

    def starting(self, facts: Facts) -> None:
        """The encoder is there."""
        say(phase="random policy", encoder=facts.encoder, untrained=facts.untrained)

    def baseline(self, score: Score) -> None:
        """The random policy has played."""
        say(phase="training", random=score.mean)

    def progress(self, progress: Progress) -> None:
        """The training goes on."""
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            say(phase="training", steps=progress.steps, mean_return=progress.mean_return)

    def playing(self, what: str, done: int, total: int) -> None:
        """An episode has been played."""
        del done, total
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            say(phase=what)


def say(**values: Any) -> None:
    """A line; where nobody listens any more, standard input has closed too, and that ends the run."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(values), flush=True)  # noqa: T201 - this is the pipe to the process that started it


def main() -> int:
    """Train, or play, what standard input describes; 0 when it is finished, 1 when it broke, 130 when it was stopped.

    What is no `VPTGymError` is a bug, ours or an environment's: its traceback goes to standard error, which is the cell's log.
    """
    plan = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from vpt_gym.compare.played import play_policy
    from vpt_gym.training.train import train

    try:
        training, fleet = TrainingConfig.from_dict(plan["training"]), FleetConfig(**plan["fleet"])
        if plan["policy"] is not None:
            play_policy(Path(plan["policy"]), training, Path(plan["folder"]), _Lines(), fleet)
            return 0
        result = train(training, Path(plan["folder"]), _Lines(), fleet)
    except KeyboardInterrupt:
        return 130
    except VPTGymError as error:
        say(error=str(error))
        return 1
    return 130 if result.interrupted else 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
