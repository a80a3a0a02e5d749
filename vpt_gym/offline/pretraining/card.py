"""What a trained encoder says of itself: a model card, and its curves as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.running.files import write_atomically

__all__ = ["read_figures", "training_facts", "write_card", "write_curves"]


def read_figures(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Lightning's CSV log: step and value of every figure, in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found


def write_curves(log: Path, target: Path) -> None:
    """Every figure that was logged in training and in validation, one small plot each."""
    figures = read_figures(log)
    names = sorted({name.partition("/")[2] for name in figures if name.startswith(("train/", "val/"))})
    names = [name for name in names if not name.endswith("_weight")]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), dpi=110, layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        for part, colour, width in (("train", "#9bb8d8", 0.8), ("val", "#1f5fa8", 2.0)):
            points = figures.get(f"{part}/{name}", [])
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    linewidth=width,
                    label={"train": "training", "val": "validation"}[part],
                )
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(fontsize=8)
    figure.supxlabel("step", fontsize=9)
    write_atomically(target, figure.savefig)


def training_facts(config: PretrainingConfig, steps: int) -> dict[str, Any]:
    """How the weights of a training were made, JSON values without any path: what goes with the weights.

    Args:
        config: of the training; its log is read for the figures of the last validation.
        steps: that were made.
    """
    figures = read_figures(config.out / "logs" / "metrics.csv")
    return {
        "name": config.out.name,
        "from": Path(config.source).name if Path(config.source).exists() else config.source,
        "trained": config.train,
        "recordings": [Path(name).name for name in config.datasets],
        "objectives": dict(config.objective),
        "steps": steps,
        "frames": steps * config.rows * config.length,
        "seed": config.seed,
        "validation": {
            name.removeprefix("val/"): points[-1][1]
            for name, points in sorted(figures.items())
            if name.startswith("val/")
        },
    }


def write_card(target: Path, facts: Mapping[str, Any], fingerprint: str, *, source: str, licence: str | None) -> None:
    """README.md, as the hub shows it.

    Args:
        target: the file.
        facts: of `training_facts`; with `hours`, how long it took.
        fingerprint: of the encoder with layer `final`.
        source: that `load_encoder` takes.
        licence: under which recordings and weights may be used; None asks the reader to say so.
    """
    hours = f" in {facts['hours']:g} hours" if "hours" in facts else ""
    lines = [
        "---",
        "library_name: vpt-gym",
        "tags: [reinforcement-learning, imitation-learning, VPT]",
        "---",
        f"# {facts['name']}",
        "",
        f"A VPT network, started from `{facts['from']}`, trained (`--train {facts['trained']}`) for {facts['steps']:,} steps, "
        f"{facts['frames']:,} frames{hours}, with vpt-gym. It is not one of OpenAI's.",
        "",
        "```python",
        f'encoder = vpt_gym.load_encoder("{source}")',
        "```",
        "",
        f"Recordings: {', '.join(facts['recordings'])}. "
        f"Objectives: {', '.join(f'{name} (weight {weight:g})' for name, weight in facts['objectives'].items())}.",
        "",
        "| validation | value |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in facts["validation"].items()),
        "",
        f"Fingerprint: `{fingerprint}`.",
        "",
        f"Licence: {licence or 'say here under which one the recordings and these weights may be used'}.",
        "",
    ]
    write_atomically(target, lambda part: part.write_text("\n".join(lines), encoding="utf-8"))
