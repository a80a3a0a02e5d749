"""The whole of a comparison: the matrix trained, and the report written over what is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from vpt_gym.compare import figures
from vpt_gym.compare.config import Cell, ComparisonConfig, slug
from vpt_gym.compare.markdown import markdown_of
from vpt_gym.compare.progress import ComparisonReporter
from vpt_gym.compare.results import Result, results_of
from vpt_gym.compare.run import train_matrix
from vpt_gym.compare.summary import summary_of
from vpt_gym.extras import import_extra
from vpt_gym.running.files import write_atomically, write_json

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes:
        summary: the numbers, as in report.json.
        markdown: the tables, as in report.md.
        failed: cells that broke in this call, and why.
        stopped: Ctrl-C or SIGTERM ended it early; the same call goes on from there.
    """

    summary: dict[str, Any]
    markdown: str
    failed: dict[Cell, str]
    stopped: bool


def compare(config: ComparisonConfig, reporter: ComparisonReporter | None = None) -> Comparison:
    """Trains what is not trained yet of a matrix, and writes report.json, report.md and the pictures into its folder.

    Args:
        config: the matrix.
        reporter: told how it goes.

    Raises:
        OptionError: the folder holds something else or another matrix, or an option cannot be had; nothing is trained then.
        VPTGymError: an environment or an encoder cannot be had, or a finished run is damaged.
    """
    import_extra("scipy.stats", "compare", "vpt-gym compare")
    trained = train_matrix(config, reporter or ComparisonReporter())
    results = results_of(config.cells())
    summary = {**summary_of(config, results), "failed": {cell.words: why for cell, why in trained.failed.items()}}
    markdown = markdown_of(summary)
    _write(config, results, summary, markdown)
    return Comparison(summary, markdown, trained.failed, trained.stopped)


def _write(config: ComparisonConfig, results: Sequence[Result], summary: Mapping[str, Any], markdown: str) -> None:
    write_json(config.out / "report.json", dict(summary))
    write_atomically(config.out / "report.md", lambda path: path.write_text(markdown, encoding="utf-8"))
    for name, figure in pictures(config, results, summary).items():
        write_atomically(config.out / f"{name}.png", figure.savefig)


def pictures(config: ComparisonConfig, results: Sequence[Result], summary: Mapping[str, Any]) -> dict[str, Figure]:
    """Every picture of the report, by its file's name."""
    drawn = {}
    for env, of_env in summary["environments"].items():
        here = [r for r in results if r.cell.env == env]
        drawn[f"curves-{slug(env)}"] = figures.curves(env, config.encoders, here)
        estimates = {encoder: values["iqm"] for encoder, values in of_env["encoders"].items()}
        drawn[f"scores-{slug(env)}"] = figures.intervals(
            env, estimates, of_env["random"], "IQM of returns after training"
        )
    if summary["overall"]["encoders"]:
        words = "IQM of scaled returns (0 random policy, 1 best encoder's mean)"
        drawn["scores"] = figures.intervals("all environments", summary["overall"]["encoders"], 0.0, words)
    return drawn
