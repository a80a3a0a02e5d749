"""Candidates take turns in short rounds, so that a machine that slows down or speeds up does so for all of them.

`torch.utils.benchmark.Timer` measures one candidate to its end before the next, and cannot be stopped between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Step", "is_warm", "summary", "take_turns", "turns_of"]

Step = Callable[[], object]
"""One step of a candidate; it returns when the result is there."""
Times = dict[str, list[list[float]]]
"""For each candidate that has had a turn, the seconds of the steps of each of its turns."""

ROUNDS = 10
WARM_UP_STEPS = LEAST_STEPS = 3
WARM_UP_SHARE = 0.2
ENOUGH_FOR_P99 = 100
"""With fewer steps, no step stands for the slowest hundredth but the slowest one."""


def take_turns(
    candidates: Mapping[str, tuple[Step, float]],
    times: Times,
    *,
    tick: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Warms up all candidates, then measures them in up to ten rounds.

    In each round every candidate has a turn of about a tenth of its steps, and each round begins with another candidate. A
    turn of several steps begins with one that is not counted, because the candidate before it has left its own weights in the
    caches. A candidate whose steps take long has fewer turns, spread over the rounds.

    Args:
        candidates: name to the step, and to how many seconds are measured of it.
        times: filled on the way, so that it holds what there is when something raises.
        tick: told before every step and at the end which share is done, 0 to 1; what it raises ends the measurement.
        clock: tells the time in seconds.
    """

    share = 0.0

    def seconds_of(step: Step) -> float:
        tick(share)
        start = clock()
        step()
        return clock() - start

    turns: dict[str, list[int]] = {}
    for number, (name, (step, seconds)) in enumerate(candidates.items(), start=1):
        seen: list[float] = []
        while not is_warm(seen, seconds):
            seen.append(seconds_of(step))
        turns[name] = turns_of(min(seen), seconds)  # the first ones allocate, compile and record
        share = WARM_UP_SHARE * number / len(candidates)
    names, done = list(turns), 0
    rounds, total = max(map(len, turns.values()), default=0), sum(map(len, turns.values()))
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            turn, of = len(times.get(name, ())), len(turns[name])
            if turn == of or turn * rounds // of != number:
                continue
            step, count = candidates[name][0], turns[name][turn]
            if count > 1:
                seconds_of(step)
            measured = [seconds_of(step) for _ in range(count)]
            times.setdefault(name, []).append(measured)
            done += 1
            share = WARM_UP_SHARE + (1 - WARM_UP_SHARE) * (done / total)
    tick(1.0)


def is_warm(seen: Sequence[float], seconds: float) -> bool:
    """Whether steps that took so long suffice as a warm-up: three, and a fifth of `seconds`; or two very slow ones."""
    enough = len(seen) >= WARM_UP_STEPS and sum(seen) >= WARM_UP_SHARE * seconds
    return enough or (len(seen) == WARM_UP_STEPS - 1 and sum(seen) >= seconds)


def turns_of(seconds_per_step: float, seconds: float) -> list[int]:
    """How many steps each turn has, for a candidate whose step takes about so long."""
    wanted = max(LEAST_STEPS, round(seconds / max(seconds_per_step, 1e-9)))
    rounds = min(ROUNDS, wanted)
    # The remainder goes to the first turns, so that their sum is what was wanted.
    return [wanted // rounds + (turn < wanted % rounds) for turn in range(rounds)]


def summary(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    """For the JSON: what the steps of these turns say, in seconds."""
    steps = np.concatenate(turns)
    return {
        "steps": len(steps),
        "p50": float(np.median(steps)),
        "p99": float(np.percentile(steps, 99, method="inverted_cdf")),  # a step that was measured, not one between two
        "p99_is_the_slowest": len(steps) < ENOUGH_FOR_P99,
        "round_medians": [float(np.median(one)) for one in turns],
    }
