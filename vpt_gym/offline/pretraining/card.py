"""What a trained encoder says of itself: a model card, and its curves as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.running.files import write_atomically

__all__ = ["read_figures", "set_log_aside", "training_facts", "write_card", "write_curves"]


def set_log_aside(out: Path) -> None:
    """Lightning begins its table anew where it finds one: that of an earlier part of the training gets a name of its own."""
    logs = out / "logs"
    if (logs / "metrics.csv").exists():
        (logs / "metrics.csv").rename(logs / f"earlier-{len(list(logs.glob('earlier-*.csv'))):03d}.csv")


def read_figures(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What a training logged, its earlier parts included: step and value of every figure, in order.

    Args:
        out: the training's folder.
    """
    found: dict[str, dict[int, float]] = {}
    for file in [*sorted((out / "logs").glob("earlier-*.csv")), out / "logs" / "metrics.csv"]:
        if not file.exists():  # nothing was left to do in this part
            continue
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        # A part that was killed may have gone beyond the checkpoint: what was done again counts.
                        found.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def write_curves(out: Path) -> None:
    """curves.png: every figure that was logged in training and in validation, one small plot each."""
    figures = read_figures(out)
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
                    marker="o" if len(points) == 1 else None,  # no line goes through one point
                    label={"train": "training", "val": "validation"}[part],
                )
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(fontsize=8)
    figure.supxlabel("step", fontsize=9)
    write_atomically(out / "curves.png", figure.savefig)


def training_facts(config: PretrainingConfig, steps: int) -> dict[str, Any]:
    """How the weights of a training were made, JSON values without any path: what goes with the weights.

    Args:
        config: of the training; its log is read for the figures of the last validation.
        steps: that were made.
    """
    figures = read_figures(config.out)
    return {
        "name": config.out.name,
        "from": Path(config.source).name if Path(config.source).exists() else config.source,
        "trained": config.train,
        "recordings": [Path(name).name for name in config.datasets],
        "objectives": dict(config.objective),
        "steps": steps,
        "frames": steps * config.rows * config.length * config.devices,
        "precision": config.precision,
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
