"""Why an encoder does or does not help in an environment, as far as probes of its latents tell, and what to try next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from vpt_gym.compare.config import ComparisonConfig, slug
from vpt_gym.compare.progress import ComparisonReporter
from vpt_gym.compare.recording import AHEAD, Played, play_and_keep
from vpt_gym.compare.results import Result
from vpt_gym.encoders import load_encoder
from vpt_gym.offline.probing import fit, scaled
from vpt_gym.running.files import write_json

__all__ = ["diagnose", "probed"]

PARTS: Final = (0.6, 0.8)
"""Where in time the frames to fit on end, and those to choose the penalty on; the score is on the rest."""
REFERENCE: Final = "the frame itself, at 16 x 16 pixels"
SMALL: Final = 16

EXPLAINS: Final = 0.3
"""R^2 from which latents tell what is coming,"""
NOTHING: Final = 0.1
"""and below which they don't."""
CLOSE: Final = 0.1
"""Latents that tell so much less than the frame itself have lost something; what is nearer may be the probe's."""
GOOD: Final = 0.8
"""Scaled score from which an encoder is as good as the best,"""
POOR: Final = 0.5
"""and below which it is not."""
ALIKE: Final = 0.05
"""Spread below which latents of an environment are hardly apart."""

Array = npt.NDArray[Any]


def diagnose(
    config: ComparisonConfig,
    env: str,
    results: Sequence[Result],
    of_env: Mapping[str, Any],
    reporter: ComparisonReporter,
) -> dict[str, Any] | None:
    """Probe what the latents of every frozen encoder tell in an environment, on frames that its best run's policy sees.

    All encoders look at the same frames, at the size of the best run's. What is found is kept in the matrix's folder until
    another run is the best or encoders are added.

    Args:
        config: the matrix.
        env: the environment.
        results: finished cells.
        of_env: the environment's part of the summary.
        reporter: told what is probed.

    Returns:
        `words`, `latents` (by name: `r2`, `spread`, `directions`, `size`, and `told`, what they tell of the numbers that the
        observation has beside the picture) and `advice`, JSON values; None where no encoder is
        frozen, or one reads more than the image.

    Raises:
        VPTGymError: an environment, an encoder or the best run cannot be had.
    """
    here = [r for r in results if r.cell.env == env and r.cell.policy is None]
    frozen = {r.cell.encoder: r.cell.training for r in here if not r.cell.training.encoder.startswith("frames:")}
    if not frozen:
        return None
    best = max(here, key=lambda result: result.score)
    place = config.out / "diagnosis" / f"{slug(env)}.json"
    asked = {"best": best.cell.words, "score": best.score, "encoders": sorted(frozen)}
    latents = _read(place, asked)
    if latents is None:
        reporter.probing(env, best.cell.words)
        played = play_and_keep(best, config.fleet)
        latents = {REFERENCE: _probed_all(_small(played.frames_ntHWC), played)}
        for name, training in frozen.items():
            reporter.probing(env, name)
            with closing(load_encoder(training.encoder, **training.encoder_options)) as encoder:
                if not encoder.also_reads:
                    latents[name] = _probed_all(_latents(encoder, played), played)
        place.parent.mkdir(exist_ok=True)
        write_json(place, {"asked": asked, "latents": latents})
    words = (
        f"What the latents tell, on frames that the policy of {best.cell.words} saw: how much of the discounted reward of the "
        f"next {AHEAD} steps a linear probe explains on frames that it was not fitted on (R², 1 is all of it, 0 nothing); how "
        "far latents of different frames are apart, over the length of their mean; and how many directions they vary in."
    )
    return {"words": words, "latents": latents, "advice": _advice(latents, of_env)}


def _probed_all(latents_ntd: Array, played: Played) -> dict[str, Any]:
    """As `probed`, with `told`: R^2 of each number that the environment tells and that changes, by name."""
    told = {name: _explained(latents_ntd, values_nt, 1) for name, values_nt in played.told.items() if np.ptp(values_nt)}
    return {**probed(latents_ntd, played.to_come_nt), "told": told}


def probed(latents_ntd: Array, to_come_nt: Array) -> dict[str, float]:
    """What a linear probe reads of the reward to come, and how latents lie.

    Args:
        latents_ntd: float [N, T, D] of N environments in T steps.
        to_come_nt: float [N, T]; NaN where it is not known.

    Returns:
        `r2`, on the last fifth of the time, fitted on the first three fifths, with a gap of `AHEAD` frames between parts, since
        what is to come overlaps; NaN-free: 0 where there is too little to fit on. `spread`: the root mean square distance from
        the mean latent, over its length. `directions`: the participation ratio of the covariance. `size`: D.
    """
    r2 = _explained(latents_ntd, to_come_nt, AHEAD)
    flat_nd = latents_ntd.reshape(-1, latents_ntd.shape[-1]).astype(np.float64)
    mean_d = flat_nd.mean(axis=0)
    away_nd = flat_nd - mean_d
    length_of_mean = float(np.linalg.norm(mean_d))
    apart = float(np.sqrt(np.square(away_nd).sum(axis=1).mean()))
    variances = np.linalg.eigvalsh(away_nd.T @ away_nd / len(away_nd)).clip(min=0)
    directions = float(variances.sum() ** 2 / np.square(variances).sum()) if variances.any() else 0.0
    return {
        "r2": r2,
        "spread": apart / length_of_mean if length_of_mean else 0.0,
        "directions": directions,
        "size": flat_nd.shape[1],
    }


def _explained(latents_ntd: Array, values_nt: Array, gap: int) -> float:
    """R^2 of values [N, T] on the last part of the time, with so many frames between parts; 0 with too little to fit on."""
    length = latents_ntd.shape[1]
    ends = [0, *(int(part * length) for part in PARTS), length]
    sets = []
    for start, end in pairwise(ends):
        stop = end if end == length else max(start + 1, end - gap)
        known = np.isfinite(values_nt[:, start:stop])
        sets.append((latents_ntd[:, start:stop][known].astype(np.float32), values_nt[:, start:stop][known]))
    if min(len(targets) for _, targets in sets) < 2:
        return 0.0
    _, r2, _ = fit([scaled(x, sets[0][0]) for x, _ in sets], [y for _, y in sets], "a frame's value")
    return r2


def _latents(encoder: Any, played: Played) -> Array:
    stream = encoder.stream(len(played.first_nt))
    latents: Array = stream.encode(played.frames_ntHWC, played.first_nt).cpu().numpy()
    return latents


def _small(frames_nthwc: npt.NDArray[np.uint8]) -> Array:
    count, length = frames_nthwc.shape[:2]
    flat = frames_nthwc.reshape(count * length, *frames_nthwc.shape[2:])
    small = [cv2.resize(frame, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for frame in flat]
    return np.stack(small).reshape(count, length, -1)


def _read(place: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    latents = kept.get("latents")
    return latents if kept.get("asked") == asked and isinstance(latents, dict) else None


def _advice(latents: Mapping[str, Mapping[str, float]], of_env: Mapping[str, Any]) -> list[str]:
    """A sentence or two for each encoder."""
    random, scores = of_env["random"], {name: v["iqm"]["value"] for name, v in of_env["encoders"].items()}
    gain = max(scores.values()) - random
    if gain <= 0:
        return [
            "No encoder is better than the random policy: train longer, or see whether the environment rewards anything that "
            "can be learnt from single frames and its memory; the probes below say what the frames tell.",
        ]
    reference = latents[REFERENCE]["r2"]
    return [
        f"{name}: {_verdict(found, reference, (scores[name] - random) / gain)}"
        for name, found in latents.items()
        if name != REFERENCE
    ]


def _verdict(found: Mapping[str, float], reference: float, score: float) -> str:
    r2, latents, frame = found["r2"], _share(found["r2"]), _share(reference)
    words = ""
    if found["spread"] < ALIKE:
        words = f"its latents are hardly apart here (spread {found['spread']:.3f}): leave --normalize, the default, as it is; "
    if score >= GOOD:
        return f"{words}as good as the best here; more can only come from longer training or another encoder."
    if r2 < NOTHING and reference < NOTHING:
        return (
            f"{words}neither its latents ({latents}) nor the frame itself ({frame}) tell what is coming: chance, or something "
            "that is out of sight. More steps may help, or an encoder that remembers what was seen; a wider head can't."
        )
    if r2 < reference - CLOSE:
        return (
            f"{words}its latents tell less of what is coming ({latents}) than the frame itself ({frame}): the features are the "
            "limit. Try another layer (@cnn, @block0), +pixels, or fine-tuning on this environment (vpt-gym pretrain)."
        )
    if r2 >= EXPLAINS and score < POOR:
        return (
            f"{words}its latents tell what is coming ({latents}; the frame itself {frame}), but the policy does little with "
            "it: the head is the limit. Try more steps, a wider head (--net-arch 64,64), another learning rate."
        )
    return (
        f"{words}its latents tell about as much of what is coming ({latents}) as the frame itself ({frame}) or more, and "
        "neither they nor the head stand out as the limit. Try more steps first, then +pixels and another layer."
    )


def _share(r2: float) -> str:
    """R^2 as people read it; a probe that does worse than the mean explains nothing."""
    return f"{max(0.0, r2):.0%}"
