"""Which seed each environment of a run gets: no two runs, and no two purposes within one, open on the same episodes."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

__all__ = ["Purpose", "Seeds", "seeds_of"]

BITS: Final = 31
"""Of a seed. Many simulators keep theirs in a signed C int, so larger ones would be refused or cut."""


class Purpose(IntEnum):
    """What episodes are played for: the spawn key, so the numbers may never change."""

    TRAINING = 0
    EVALUATION = 1
    EVAL_COMMAND = 2
    RESUMED = 3


class Seeds(NamedTuple):
    """Seeds for one purpose: `actions` for sampled actions, one of `envs` for each environment."""

    actions: int
    envs: tuple[int, ...]


def seeds_of(seed: int, purpose: Purpose, n_envs: int, steps: int = 0) -> Seeds:
    """Seeds that follow from a run's seed, drawn by NumPy's SeedSequence.

    More environments get the same seeds as fewer, and then others. Seeds that are counted up (`seed + i`) meet the
    seeds of the next run; these are as good as random numbers of 31 bits, so they do not.

    Args:
        seed: a run's `--seed`, from 0 on.
        purpose: of the episodes.
        n_envs: how many environments.
        steps: of the run when it was resumed, so that no two resumptions open on the same episodes.
    """
    words = np.random.SeedSequence(seed, spawn_key=(purpose, steps) if steps else (purpose,)).generate_state(
        1 + n_envs, np.uint32
    )
    actions, *envs = (int(word) >> (32 - BITS) for word in words)
    return Seeds(actions, tuple(envs))
