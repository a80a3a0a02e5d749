"""When an environment in a worker counts as failed, and what its supervisor then does."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from vpt_gym.checks import check_count
from vpt_gym.errors import OptionError

__all__ = ["Terms"]

LONGEST_BACKOFF: Final = 30.0
"""Seconds between two attempts, at most."""

_jitter = random.Random()
"""Not the generator that trainings seed and keep."""


@dataclass(frozen=True)
class Terms:
    """When an environment counts as failed, and what is done about it.

    Attributes:
        deadline: seconds that a step may take.
        start_deadline: seconds that an environment may take to be made, to be reset, and to answer any other question.
        max_failures: failures in a row, of one environment, that stop the run.
        backoff: seconds before an environment is made anew, about; twice as many with every further failure in a row.

    Raises:
        OptionError: a value is out of range.
    """

    deadline: float = 120.0
    start_deadline: float = 600.0
    max_failures: int = 10
    backoff: float = 0.1

    def __post_init__(self) -> None:
        check_count("max_failures", self.max_failures)
        for name in ("deadline", "start_deadline", "backoff"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
                raise OptionError(f"{name} must be a number of seconds above 0, not {value!r}.")

    def wait(self, failures: int) -> float:
        """Seconds before the next attempt; drawn, so that environments that failed together do not start together."""
        longest = min(LONGEST_BACKOFF, self.backoff * 2.0 ** (failures - 1))
        return longest * _jitter.uniform(0.5, 1.0)
