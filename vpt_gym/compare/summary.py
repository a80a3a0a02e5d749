"""What the finished cells come to: the numbers of a report, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vpt_gym.compare.config import ComparisonConfig
from vpt_gym.compare.results import Result
from vpt_gym.compare.statistics import Scores, improvement, interquartile_mean, scaled_scores
from vpt_gym.running.machine import cpu_words
from vpt_gym.running.versions import versions

__all__ = ["summary_of"]


def summary_of(config: ComparisonConfig, results: Sequence[Result]) -> dict[str, Any]:
    """report.json of what is finished: JSON values.

    `environments` holds each environment's random policy and its encoders, with each run and the interquartile mean of their
    returns; `overall` the same over all environments in which every encoder has finished a run, on a scale where the random
    policy is 0 and the best encoder's mean is 1; `improvement` the probability that one encoder's run beats another's.
    """
    environments = {env: _environment(config, [r for r in results if r.cell.env == env]) for env in config.envs}
    environments = {env: values for env, values in environments.items() if values["encoders"]}
    return {
        "matrix": config.to_dict(),
        "cells": {"total": len(config.cells()), "finished": len(results)},
        "hardware": cpu_words(),
        "versions": versions(),
        "hours": sum(r.total_seconds for r in results) / 3600,
        "environments": environments,
        **_overall(config, results),
    }


def _environment(config: ComparisonConfig, results: list[Result]) -> dict[str, Any]:
    encoders = {}
    for encoder in config.encoders:
        runs = [r for r in results if r.cell.encoder == encoder]
        if runs:
            seconds = [r.seconds for r in runs if r.seconds is not None]
            encoders[encoder] = {
                "iqm": interquartile_mean([_scores(runs)]).to_dict(),
                "mean": float(_scores(runs).mean()),
                "training_seconds": float(np.mean(seconds)) if seconds else None,
                "untrained": bool(runs[0].encoder.get("untrained")),
                "runs": [
                    {"seed": r.cell.seed, "return": r.score, "random": r.random, "training_seconds": r.seconds}
                    for r in runs
                ],
            }
    random = _random(results)
    return {"random": random, "encoders": encoders, "threshold": _threshold(encoders, random, results)}


def _threshold(encoders: dict[str, Any], random: float, results: Sequence[Result]) -> dict[str, Any] | None:
    """Half-way from the random policy to the best trained encoder, and when runs get there; None where none is better."""
    trained = {encoder: values for encoder, values in encoders.items() if values["training_seconds"] is not None}
    best = max((values["iqm"]["value"] for values in trained.values()), default=random)
    if not best > random:
        return None
    goal = random + (best - random) / 2
    found = {}
    for encoder in trained:
        runs = [r.curve for r in results if r.cell.encoder == encoder and r.curve is not None]
        there = [at for at in (curve.reaches(goal) for curve in runs) if at is not None]
        found[encoder] = {
            "runs": len(runs),
            "reached": len(there),
            "steps": float(np.median([steps for steps, _ in there])) if there else None,
            "minutes": float(np.median([seconds for _, seconds in there])) / 60 if there else None,
        }
    return {"return": goal, "encoders": found}


def _overall(config: ComparisonConfig, results: Sequence[Result]) -> dict[str, Any]:
    strata: dict[str, list[Scores]] = {encoder: [] for encoder in config.encoders}
    scaled: dict[str, list[Scores]] = {encoder: [] for encoder in config.encoders}
    used, without = [], []
    for env in config.envs:
        runs = {e: [r for r in results if r.cell.env == env and r.cell.encoder == e] for e in config.encoders}
        if not all(runs.values()):
            continue
        scores = {encoder: _scores(of_encoder) for encoder, of_encoder in runs.items()}
        for encoder, values in scores.items():
            strata[encoder].append(values)
        used.append(env)
        on_scale = scaled_scores(scores, _random([r for of_encoder in runs.values() for r in of_encoder]))
        if on_scale is None:
            without.append(env)
            continue
        for encoder, values in on_scale.items():
            scaled[encoder].append(values)
    overall = {e: interquartile_mean(values).to_dict() for e, values in scaled.items() if values}
    better = {
        ours: {
            theirs: improvement(strata[ours], strata[theirs]).to_dict() for theirs in config.encoders if theirs != ours
        }
        for ours in config.encoders
        if used
    }
    return {
        "overall": {
            "environments": [e for e in used if e not in without],
            "nobody_beats_random": without,
            "encoders": overall,
        },
        "improvement": {"environments": used, "encoders": better},
    }


def _scores(results: Sequence[Result]) -> Scores:
    return np.array([r.score for r in results], np.float64)


def _random(results: Sequence[Result]) -> float:
    return float(np.mean([r.random for r in results])) if results else float("nan")
