"""Statistics of few runs, as Agarwal et al. (arXiv 2108.13264) advise, computed by SciPy.

Interquartile means, because one lucky seed moves a mean and a median of five throws most of them away; and bootstrap intervals
that resample seeds within each environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vpt_gym.extras import import_extra

__all__ = ["Estimate", "improvement", "interquartile_mean", "scaled_scores"]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 5_000
BATCH: Final = 500
"""Resamples at once: pairs of hundreds of runs take their memory."""
SEED: Final = 0
"""Of the bootstrap: the same scores give the same intervals."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval.

    Attributes:
        value: the estimate.
        low: the interval's lower end; None where fewer than two runs leave nothing to resample.
        high: its upper end.
    """

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def interquartile_mean(strata: Sequence[Scores]) -> Estimate:
    """The mean of the middle half of all scores, with a stratified bootstrap interval.

    Args:
        strata: the scores of each environment's runs, an array each.
    """
    stats: Any = import_extra("scipy.stats", "compare", "vpt-gym compare")

    def statistic(*samples: Scores, axis: int = -1) -> Any:
        return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    return _bootstrapped(stats, tuple(strata), statistic)


def improvement(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Estimate:
    """The probability that a run of ours scores higher than one of theirs, in an environment drawn at random; ties count half.

    Args:
        ours: the scores of each environment's runs, an array each.
        theirs: of the others, in the same order of environments.
    """
    stats: Any = import_extra("scipy.stats", "compare", "vpt-gym compare")
    count = len(ours)

    def statistic(*samples: Scores, axis: int = -1) -> Any:
        moved = [np.moveaxis(sample, axis, -1) for sample in samples]
        return np.mean([_wins(a, b) for a, b in zip(moved[:count], moved[count:], strict=True)], axis=0)

    return _bootstrapped(stats, (*ours, *theirs), statistic)


def _wins(a: Scores, b: Scores) -> Any:
    ahead = a[..., :, None] - b[..., None, :]
    return ((ahead > 0) + 0.5 * (ahead == 0)).mean(axis=(-2, -1))


def _bootstrapped(stats: Any, samples: tuple[Scores, ...], statistic: Any) -> Estimate:
    value = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, None, None)
    # Each sample is resampled by itself: an environment keeps its number of runs in every resample.
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def scaled_scores(scores: Mapping[str, Scores], random: float) -> dict[str, Scores] | None:
    """One environment's scores by encoder, on a scale that environments share: the random policy is 0, the best mean is 1.

    Returns:
        None where no encoder is better than the random policy: there is nothing to scale by.
    """
    best = max(float(values.mean()) for values in scores.values())
    if not best > random:
        return None
    return {name: (values - random) / (best - random) for name, values in scores.items()}
