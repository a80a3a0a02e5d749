"""Pictures of a matrix: return against steps and against wall time, and the interquartile means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vpt_gym.compare.results import Result, band

__all__ = ["curves", "intervals"]


def curves(env: str, encoders: Sequence[str], results: Sequence[Result]) -> Figure:
    """Return against environment steps and against wall time, a line for each encoder: the mean of its runs, and their range.

    Args:
        env: the environment.
        encoders: in the order of their colours.
        results: its finished cells.
    """
    figure = Figure(figsize=(11.0, 4.6), dpi=120, layout="constrained")
    by_steps, by_time = figure.subplots(1, 2, sharey=True)
    for number, encoder in enumerate(encoders):
        runs = [r.curve for r in results if r.cell.encoder == encoder and r.curve is not None]
        if not runs:
            continue
        mean, low, high = band([curve.returns for curve in runs])
        known = np.isfinite(mean)  # where episodes are long, none ends in some tenths
        seconds, _, _ = band([curve.seconds for curve in runs])
        label = f"{encoder} ({len(runs)} run{'s' * (len(runs) != 1)})"
        for axes, x in ((by_steps, runs[0].steps), (by_time, seconds / 60)):
            axes.plot(x[known], mean[known], color=_colour(number), linewidth=2, label=label)
            axes.fill_between(x[known], low[known], high[known], color=_colour(number), alpha=0.15, linewidth=0)
    random = sum(r.random for r in results) / len(results)
    for axes in (by_steps, by_time):
        axes.axhline(random, color="#777777", linestyle="--", linewidth=1.4, label="random policy")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    by_steps.set_xlabel("environment steps")
    by_steps.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    by_time.set_xlabel("minutes of training")
    by_steps.set_ylabel("return of training episodes")
    figure.suptitle(env)
    handles, labels = by_steps.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def intervals(
    title: str, encoders: Sequence[str], estimates: Mapping[str, Mapping[str, Any]], reference: float, what: str
) -> Figure:
    """Interquartile means with their 95% intervals, an encoder a line.

    Args:
        title: of the picture.
        encoders: in the order of their colours.
        estimates: by encoder.
        reference: where the random policy stands.
        what: the axis.
    """
    figure = Figure(figsize=(8.0, 1.6 + 0.42 * len(estimates)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for encoder, estimate in estimates.items():
        number = encoders.index(encoder)
        if estimate["low"] is not None:
            axes.plot(
                [estimate["low"], estimate["high"]], [encoder] * 2, color=_colour(number), linewidth=8, alpha=0.35
            )
        axes.plot([estimate["value"]], [encoder], "o", color=_colour(number))
    axes.axvline(reference, color="#777777", linestyle="--", linewidth=1.4, label="random policy")
    axes.legend(fontsize=8, frameon=False)
    axes.invert_yaxis()
    axes.margins(y=0.25)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(what)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colour(number: int) -> Any:
    return mpl.colormaps["tab10"](number % 10)
