"""learning_curve.png: the whole run at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from vpt_gym.training.callback import WINDOW, Episode
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.report import Score

__all__ = ["learning_curve"]

FIRST_MEAN = 10
"""Episodes before the mean is drawn."""

BLUE, GREY, GREEN = "#1f5fa8", "#777777", "#2a8f4f"


def learning_curve(
    config: TrainingConfig,
    episodes: Sequence[Episode],
    *,
    steps: int,
    untrained: bool,
    baseline: Score | None,
    evaluation: Score | None,
) -> Figure:
    """Return against environment steps, with the random policy's line and the final evaluation.

    Args:
        config: names the environment, the algorithm and the encoder in the title.
        episodes: finished training episodes, in order; may be empty.
        steps: environment steps taken.
        untrained: the encoder's weights are random, which the title then says.
        baseline: the random policy's score.
        evaluation: the score after training.

    Returns:
        The figure, for `Figure.savefig`; it belongs to no window and needs no display.
    """
    figure = Figure(figsize=(8.0, 4.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if episodes:
        x = [episode.steps for episode in episodes]
        rewards = [episode.reward for episode in episodes]
        axes.scatter(x, rewards, s=9, color=BLUE, alpha=0.3, linewidths=0, label="one training episode")
        # The first episodes to end are the short ones: a mean of few of them misleads.
        settled = min(FIRST_MEAN, len(x)) - 1
        axes.plot(
            x[settled:],
            running_mean(rewards)[settled:],
            color=BLUE,
            linewidth=2.2,
            label=f"mean of the last {WINDOW} episodes",
        )
    if baseline is not None:
        label = f"random policy: {baseline.mean:+.1f}"
        axes.axhline(baseline.mean, color=GREY, linestyle="--", linewidth=1.6, label=label)
    if evaluation is not None:
        words = f"{evaluation.mean:+.1f} ± {evaluation.std:.1f} ({len(evaluation.returns)} episodes)"
        axes.errorbar(
            [steps],
            [evaluation.mean],
            yerr=[evaluation.std],
            fmt="D",
            markersize=8,
            capsize=4,
            color=GREEN,
            label=f"evaluation after training: {words}",
            clip_on=False,
            zorder=5,
        )
    source = f"{config.encoder} (untrained encoder)" if untrained else config.encoder
    axes.set_title(f"{config.env_id}: {config.algo.upper()} on latents\n{source}", fontsize=12)
    axes.set_xlabel(f"environment steps (all {config.n_envs} environments together)")
    axes.set_ylabel("return per episode")
    axes.set_xlim(0, max(steps, 1) * 1.03)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, frameon=True, framealpha=0.9)
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """For each value the mean of the last 100 up to it, fewer at the beginning."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - WINDOW] if i >= WINDOW else 0.0)
        means.append(total / min(i + 1, WINDOW))
    return means
