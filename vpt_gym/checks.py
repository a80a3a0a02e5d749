"""Checks of numbers that users hand in, each with the sentence that says what was expected."""

from __future__ import annotations

from numbers import Integral

from vpt_gym.errors import OptionError

__all__ = ["check_count"]


def check_count(name: str, value: object) -> int:
    """Hands back a positive whole number as an int.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise OptionError(f"{name} must be a positive whole number, not {value!r}.")
    return int(value)
