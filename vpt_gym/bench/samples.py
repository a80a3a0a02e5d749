"""What a list of measured times says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Times", "percentile"]

ENOUGH_FOR_P99 = 100
"""With fewer steps, no step stands for the slowest hundredth but the slowest one."""


@dataclass(frozen=True)
class Times:
    """Seconds of single steps, kept by the round that they were measured in.

    Attributes:
        rounds: for each round that the candidate took part in, the seconds of its steps, in order.
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def steps(self) -> int:
        """How many steps were measured."""
        return sum(map(len, self.rounds))

    @property
    def p50(self) -> float:
        """The median step, in seconds."""
        return median(seconds for one in self.rounds for seconds in one)

    @property
    def p99(self) -> float:
        """The step that 99 of 100 are no slower than, in seconds; the slowest one when there are fewer than 100."""
        return percentile([seconds for one in self.rounds for seconds in one], 99)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON: seconds, the medians of the rounds among them."""
        return {
            "steps": self.steps,
            "p50": self.p50,
            "p99": self.p99,
            "p99_is_the_slowest": self.steps < ENOUGH_FOR_P99,
            "round_medians": [median(one) for one in self.rounds],
        }


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` per cent of the samples do not exceed (nearest rank)."""
    assert samples
    assert 0 < percent <= 100
    return sorted(samples)[math.ceil(percent / 100 * len(samples)) - 1]
