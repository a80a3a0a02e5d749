"""What can go wrong for a user, as one small family of exceptions.

Every message names the object, what was expected, what came and what to do about it, in one sentence or two. The command
line prints such a message without a traceback; any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "EnvironmentCrashed",
    "EnvironmentFailedError",
    "NonFiniteLatent",
    "ObservationError",
    "OptionError",
    "RecordingError",
    "ResetNeeded",
    "VPTGymError",
    "WeightsError",
]


class VPTGymError(Exception):
    """Base class of every error that vpt_gym raises for its users."""


class EnvironmentCrashed(VPTGymError, RuntimeError):  # noqa: N818 - it says what happened
    """The game behind an environment broke off, hung or never came up: neither the end of an episode nor an observation.

    The message carries what the simulator reported. The next `reset` starts the game anew.
    """


class EnvironmentFailedError(VPTGymError, RuntimeError):
    """An environment in a worker cannot be made, or has failed so often in a row that making it anew is of no use."""


class NonFiniteLatent(VPTGymError, ArithmeticError):  # noqa: N818 - it says what happened
    """A latent is NaN or infinite.

    Attributes:
        rows: whose latents.
        frames: of these rows, uint8 [n, H, W, 3], where a wrapper has them.
    """

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows
        self.frames: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return NonFiniteLatent, (str(self), self.rows)


class ObservationError(VPTGymError, ValueError):
    """An observation, an observation space or a mask is not what the encoder can take."""


class OptionError(VPTGymError, ValueError):
    """An argument or an option has a value that it cannot have."""


class RecordingError(VPTGymError, ValueError):
    """A recording or a dataset of latents cannot be read, or is not what it should be."""


class ResetNeeded(VPTGymError, RuntimeError):  # noqa: N818 - the name that Gymnasium gave it
    """`step` was called before the first `reset`."""


class WeightsError(VPTGymError, ValueError):
    """A checkpoint cannot be found, trusted, read, or does not hold the network it claims to hold."""
