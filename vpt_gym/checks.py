"""Checks of what users hand in, numbers for the most part, each with the sentence that says what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real

from vpt_gym.errors import OptionError

__all__ = ["check_count", "check_goal", "is_between", "is_count", "is_whole"]


def is_whole(value: object) -> bool:
    """Whether it is a whole number; Python's True is one, but nobody who writes it means 1."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether it is a whole number of 1 or more."""
    return isinstance(value, Integral) and is_whole(value) and int(value) >= 1


def is_between(value: object, low: float, high: float = math.inf) -> bool:
    """Whether it is a finite number from `low` to `high`, both included; NaN is not."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float reaches
        return False
    return math.isfinite(number) and low <= number <= high


def check_count(name: str, value: object) -> int:
    """Hands back a positive whole number as an int.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(value, Integral) or not is_count(value):
        raise OptionError(f"{name} must be a positive whole number, not {value!r}.")
    return int(value)


def check_goal(goal: str | None, goal_key: str | None, clip: str | None) -> None:
    """Raises OptionError unless a goal is told, or read in observations, or neither; and a CLIP is named only with one."""
    if goal is not None and goal_key is not None:
        raise OptionError(
            "goal tells one goal for all episodes, and goal_key reads it in observations; give one of them."
        )
    if clip is not None and goal is None and goal_key is None:
        raise OptionError("clip is given, and is of use with goal or goal_key alone; give that too, or leave it out.")
