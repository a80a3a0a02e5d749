"""What a forked child must know of its parent: torch's threads stayed behind there, and so did CUDA."""

from __future__ import annotations

import os
from typing import Final

import torch

from vpt_gym.errors import VPTGymError

__all__ = ["refuse_lost_cuda"]


class _Fork:
    """What this process lost when it was forked."""

    has_cuda = False
    """Whether CUDA runs in this process, looked up before each fork."""
    lost_cuda = False


_FORK: Final = _Fork()


def _before() -> None:
    _FORK.has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def _in_child() -> None:
    _FORK.lost_cuda = _FORK.lost_cuda or _FORK.has_cuda
    # OpenMP would wait for ever for the threads that it started in the parent, at the first sum that they are to share.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)


def refuse_lost_cuda(device: torch.device) -> None:
    """Raises VPTGymError for a GPU in a process that was forked from one that had used CUDA."""
    if device.type == "cuda" and _FORK.lost_cuda:
        raise VPTGymError(
            f"No encoder can run on {device} here: this process was forked from one that had used CUDA, which does not outlive "
            "that. Put the wrapper around the vector environment, in the parent; or start workers by spawn or forkserver "
            "(AsyncVectorEnv(context=...), SubprocVecEnv(start_method=...)) and have each load an encoder by its source."
        )
