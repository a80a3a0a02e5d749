"""Pictures of what the commands on recordings found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vpt_gym.offline.probing import Probe
from vpt_gym.offline.report import CloneResult
from vpt_gym.running.files import check_writable, write_atomically

__all__ = ["draw_cloning", "draw_moments", "draw_probes"]

MOST_KEYS: Final = 8
"""Lines that one can still tell from one another."""


def draw_cloning(result: CloneResult, target: Path) -> None:
    """Writes a picture of the losses, and of accuracies and errors, epoch by epoch."""
    check_writable(target)
    numbers = [epoch.number for epoch in result.epochs]
    errors = [name for name in result.epochs[0].measures if "error" in name]
    accuracies = [name for name in result.epochs[0].measures if name not in errors]
    # The keys that are hardest to tell: those that are nearly never pressed are all but always right.
    accuracies = sorted(accuracies, key=lambda name: result.best.measures[name])[:MOST_KEYS]
    panels = [names for names in (accuracies, errors) if names]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5 * (1 + len(panels)), 3.6), layout="constrained")
        axes: Any = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
        axes[0].plot(numbers, [epoch.loss for epoch in result.epochs], label="training")
        axes[0].plot(numbers, [epoch.validation_loss for epoch in result.epochs], label="held out")
        axes[0].axvline(result.best.number, color="0.7", linewidth=1)
        axes[0].set_ylabel("loss")
        for axis, names in zip(axes[1:], panels, strict=True):
            for name in names:
                axis.plot(numbers, [epoch.measures[name] for epoch in result.epochs], label=name)
            axis.set_ylabel("error" if names == errors else "accuracy, held out")
        for axis in axes:
            axis.set_xlabel("epoch")
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
        write_atomically(target, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_probes(probes: Sequence[Probe], target: Path) -> None:
    """Writes a picture of what each layer tells of each label, beside what answering the same always would score."""
    check_writable(target)
    labels = list(dict.fromkeys(each.label for each in probes))
    layers = list(dict.fromkeys(each.layer for each in probes))
    width = 0.8 / len(labels)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(max(5.0, 1.1 * len(layers) + 1.5), 3.6), layout="constrained")
        axis: Any = figure.subplots()
        for place, label in enumerate(labels):
            those = [each for each in probes if each.label == label]
            where = [layers.index(each.layer) + (place - (len(labels) - 1) / 2) * width for each in those]
            words = f"{label} ({'R²' if those[0].kind == 'ridge' else 'accuracy'})"
            bars = axis.bar(where, [max(each.score, 0.0) for each in those], width * 0.9, label=words)
            for bar, each in zip(bars, those, strict=True):
                middle = bar.get_x() + bar.get_width() / 2
                axis.plot(
                    [middle - width * 0.45, middle + width * 0.45], [each.baseline] * 2, color="black", linewidth=1
                )
        axis.set_xticks(range(len(layers)), layers)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel("held-out episodes; black: without a look")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3, axis="y")
        write_atomically(target, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_moments(rows: Sequence[Sequence[tuple[str, npt.NDArray[np.uint8]]]], target: Path) -> None:
    """Writes a contact sheet: in each row pictures [H, W, 3] with a line of words above each."""
    check_writable(target)
    columns = max(len(row) for row in rows)
    with matplotlib.rc_context({"font.size": 7}):
        figure = Figure(figsize=(2.2 * columns, 1.9 * len(rows)), layout="constrained")
        axes: Any = figure.subplots(len(rows), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for row, pictures in enumerate(rows):
            for column, (words, picture) in enumerate(pictures):
                axes[row, column].imshow(picture)
                axes[row, column].set_title(words)
        write_atomically(target, lambda temporary: figure.savefig(temporary, dpi=130))
