"""`nearest`: which moments of the recordings look like this one; exact, from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.errors import OptionError
from vpt_gym.offline.dataset import LatentDataset

__all__ = ["METRICS", "Moment", "nearest"]

METRICS: Final = {"l2": 2.0, "l1": 1.0}
"""Distances by name: Euclid's, and the sum of differences."""

FRAMES_PER_READ: Final = 8192


@dataclass(frozen=True)
class Moment:
    """A frame of a dataset, and how far its latent is.

    Attributes:
        episode: number in the dataset.
        frame: of the episode, from 0.
        distance: from what was looked for.
    """

    episode: int
    frame: int
    distance: float


def nearest(
    dataset: LatentDataset | Path | str,
    latents: Any,
    k: int = 8,
    *,
    metric: str = "l2",
    apart: int = 1,
) -> list[list[Moment]]:
    """The k frames whose latents are nearest to each of those given; exact, and read from disk in blocks.

    Source: retrieval in VPT's latent space, "Behavioral Cloning via Search in Video PreTraining Latent Space" (arXiv
    2212.13326), which won an intro track of BASALT.

    Args:
        dataset: of latents, or its folder.
        latents: float [Q, D] or [D], array or tensor, of the dataset's encoder.
        k: how many; fewer come where there are fewer.
        metric: `l2` or `l1`.
        apart: frames of one episode among the k are at least so far from one another, so that k neighbours of a film are not
            k times the same moment; 1 for no such rule.

    Returns:
        For each of the Q the moments, nearest first.

    Raises:
        OptionError: the latents are not of the dataset's length or not finite, or an option is out of range.
        RecordingError: the dataset cannot be read.
    """
    if isinstance(dataset, (str, Path)):
        with LatentDataset(dataset) as opened:
            return nearest(opened, latents, k, metric=metric, apart=apart)
    k, apart = check_count("k", k), check_count("apart", apart)
    if metric not in METRICS:
        raise OptionError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")
    queries_qd = torch.as_tensor(latents).detach().cpu().float()
    queries_qd = queries_qd[None] if queries_qd.dim() == 1 else queries_qd
    if queries_qd.dim() != 2 or queries_qd.shape[1] != dataset.latent_size or not bool(queries_qd.isfinite().all()):
        raise OptionError(
            f"nearest looks for finite latents [Q, {dataset.latent_size}], as {dataset.path} holds them, but "
            f"{tuple(queries_qd.shape)} came: encode with {dataset.encoder['source']}."
        )
    best: list[list[Moment]] = [[] for _ in queries_qd]
    longest = max((episode.frames for episode in dataset.episodes), default=0)
    # Made once: what is freed between small pieces that stay is not used again, and would add up to the size of the dataset.
    floats_td = torch.empty(min(longest, FRAMES_PER_READ), dataset.latent_size)
    for episode in dataset.episodes:
        # Frames that are too close to a nearer one drop out only among those of their own episode.
        found: list[list[Moment]] = [[] for _ in queries_qd]
        for start in range(0, episode.frames, FRAMES_PER_READ):
            (read_td,) = dataset.read(episode.number, ["latents"], start, start + FRAMES_PER_READ)
            block_td = floats_td[: len(read_td)].copy_(torch.from_numpy(read_td))
            distances_qt = _distances(queries_qd, block_td, METRICS[metric])
            for query, distances_t in enumerate(distances_qt.numpy()):
                places = _least(distances_t, k, apart)
                found[query] += [Moment(episode.number, start + int(at), float(distances_t[at])) for at in places]
        for query, moments in enumerate(found):
            best[query] = sorted([*best[query], *_apart(moments, apart)], key=_order)[:k]
    return best


def _distances(queries_qd: Tensor, block_td: Tensor, power: float) -> Tensor:
    # From differences, not from products: those cancel where latents are near one another, which is what is asked.
    return torch.cdist(queries_qd, block_td, p=power, compute_mode="donot_use_mm_for_euclid_dist")


def _least(distances_t: npt.NDArray[np.float32], k: int, apart: int) -> npt.NDArray[np.int64]:
    """Places that can be among the k least that are so far apart, least first."""
    # A chosen frame rules out fewer than 2 * apart others, so the k-th chosen is among the first k * (2 * apart - 1) by rank.
    count = min(len(distances_t), k * (2 * apart - 1))
    places = np.argpartition(distances_t, count - 1)[:count]
    return places[np.argsort(distances_t[places], kind="stable")]


def _apart(moments: list[Moment], apart: int) -> list[Moment]:
    """Of one episode's moments the nearest, and of the others those that are far enough from all nearer ones."""
    kept: list[Moment] = []
    for moment in sorted(moments, key=_order):
        if all(abs(moment.frame - other.frame) >= apart for other in kept):
            kept.append(moment)
    return kept


def _order(moment: Moment) -> tuple[float, int, int]:
    return moment.distance, moment.episode, moment.frame
