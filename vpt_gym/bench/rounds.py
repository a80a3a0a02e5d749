"""Candidates take turns in short rounds, so that a machine that slows down or speeds up does so for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vpt_gym.bench.samples import Times

__all__ = ["Budget", "Turns"]

Step = Callable[[], object]
"""One step of a candidate; it returns when the result is there."""

ROUNDS = 10
WARM_UP_STEPS = 3
WARM_UP_SHARE = 0.2
LEAST_STEPS = 3


@dataclass(frozen=True)
class Budget:
    """How long each candidate is measured: about `seconds`, or `steps` exactly when that is given.

    Attributes:
        seconds: measured time of each candidate; at least three steps are measured however long they take.
        steps: measured steps of each candidate, in place of `seconds`.
    """

    seconds: float = 5.0
    steps: int | None = None

    def is_warm(self, seen: Sequence[float]) -> bool:
        """Whether these steps, in seconds, suffice as a warm-up: three, and a fifth of the budget.

        Two will do where steps are so slow that a third would cost more than it tells.
        """
        enough = len(seen) >= WARM_UP_SHARE * self.steps if self.steps else sum(seen) >= WARM_UP_SHARE * self.seconds
        slow = sum(seen) >= self.seconds
        return (enough and len(seen) >= WARM_UP_STEPS) or (slow and len(seen) >= WARM_UP_STEPS - 1)

    def turns(self, seconds_per_step: float) -> list[int]:
        """How many steps each turn has, for a candidate whose step takes about so long."""
        wanted = self.steps
        if wanted is None:
            wanted = max(LEAST_STEPS, round(self.seconds / max(seconds_per_step, 1e-9)))
        # The remainder goes to the first turns, so that their sum is what was wanted.
        rounds = min(ROUNDS, wanted)
        return [wanted // rounds + (turn < wanted % rounds) for turn in range(rounds)]


class Turns:
    """Candidates that are measured in turns.

    Each is warmed up: at least three steps, and a fifth of its budget, are not counted. Then come up to ten rounds. In each
    round every candidate has a turn of about a tenth of its steps, and each round begins with another candidate. A turn of
    several steps begins with one that is not counted, because the candidate before it has left its own weights in the
    caches. A candidate whose steps take long has fewer turns, spread over the rounds.

    Args:
        check: called before every step; what it raises ends the measurement, and `times` has what there is by then.
        progress: told after every warm-up and every turn which share is done, 0 to 1.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        *,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._check = check
        self._progress = progress
        self._clock = clock
        self._candidates: dict[str, tuple[Step, Budget]] = {}
        self._measured: dict[str, list[tuple[float, ...]]] = {}

    def add(self, name: str, step: Step, budget: Budget) -> None:
        """Adds a candidate."""
        self._candidates[name] = (step, budget)

    @property
    def times(self) -> dict[str, Times]:
        """What was measured so far, by name; a candidate that has had no turn yet is not among them."""
        return {name: Times(tuple(rounds)) for name, rounds in self._measured.items() if rounds}

    def run(self) -> None:
        """Warms up and measures all."""
        turns: dict[str, list[int]] = {}
        for number, (name, (step, budget)) in enumerate(self._candidates.items(), start=1):
            turns[name] = budget.turns(self._warm_up(step, budget))
            self._progress(WARM_UP_SHARE * number / len(self._candidates))
        self._measured = {name: [] for name in turns}
        rounds, total, done = max(map(len, turns.values())), sum(map(len, turns.values())), 0
        names = list(turns)
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                turn, of = len(self._measured[name]), len(turns[name])
                if turn == of or turn * rounds // of != number:
                    continue
                self._measured[name].append(self._turn(self._candidates[name][0], turns[name][turn]))
                done += 1
                self._progress(WARM_UP_SHARE + (1 - WARM_UP_SHARE) * done / total)

    def _turn(self, step: Step, count: int) -> tuple[float, ...]:
        if count > 1:
            self._check()
            step()
        return tuple(self._seconds(step) for _ in range(count))

    def _seconds(self, step: Step) -> float:
        self._check()
        start = self._clock()
        step()
        return self._clock() - start

    def _warm_up(self, step: Step, budget: Budget) -> float:
        """Seconds of a warm step: the fastest seen, since the first ones allocate, compile and record."""
        seen: list[float] = []
        while not budget.is_warm(seen):
            seen.append(self._seconds(step))
        return min(seen)
