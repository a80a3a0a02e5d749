"""What can go wrong for a user, as one small family of exceptions.

Every message names the object, what was expected, what came and what to do about it, in one sentence or two. The command
line prints such a message without a traceback; any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from numbers import Integral

__all__ = ["EnvironmentCrashed", "ObservationError", "ResetNeeded", "VPTGymError", "WeightsError", "check_count"]


class VPTGymError(Exception):
    """Base class of every error that vpt_gym raises for its users."""


class EnvironmentCrashed(VPTGymError, RuntimeError):  # noqa: N818 - it says what happened
    """The game behind an environment broke off, hung or never came up: neither the end of an episode nor an observation.

    The message carries what the simulator reported. The next `reset` starts the game anew.
    """


class ObservationError(VPTGymError, ValueError):
    """An observation, an observation space or a mask is not what the encoder can take."""


class ResetNeeded(VPTGymError, RuntimeError):  # noqa: N818 - the name that Gymnasium gave it
    """`step` was called before the first `reset`."""


class WeightsError(VPTGymError, ValueError):
    """A checkpoint cannot be found, trusted, read, or does not hold the network it claims to hold."""


def check_count(name: str, value: object) -> None:
    """Raises VPTGymError unless `value` is a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise VPTGymError(f"{name} must be a positive whole number, not {value!r}.")
