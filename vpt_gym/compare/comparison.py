"""The whole of a comparison: the matrix trained, and the report written over what is finished."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from vpt_gym.compare import figures
from vpt_gym.compare.config import Cell, ComparisonConfig, slug
from vpt_gym.compare.diagnosis import diagnose
from vpt_gym.compare.progress import ComparisonReporter
from vpt_gym.compare.report import html_of, markdown_of, parts_of
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
        text: the tables, as in report.md, without links to pictures.
        failed: cells that broke in this call, and why.
        stopped: Ctrl-C or SIGTERM ended it early; the same call goes on from there.
    """

    summary: dict[str, Any]
    text: str
    failed: dict[Cell, str]
    stopped: bool


def compare(config: ComparisonConfig, reporter: ComparisonReporter | None = None) -> Comparison:
    """Trains what is not trained yet of a matrix, and reports: report.html, report.md, report.json and pictures in its folder.

    Args:
        config: the matrix.
        reporter: told how it goes.

    Raises:
        OptionError: the folder holds something else or another matrix, or an option cannot be had; nothing is trained then.
        VPTGymError: an environment or an encoder cannot be had, or a finished run is damaged.
        KeyboardInterrupt: Ctrl-C after the trainings; the report is written, but for what was under way.
    """
    import_extra("scipy.stats", "compare", "vpt-gym compare")
    reporter = reporter or ComparisonReporter()
    trained = train_matrix(config, reporter, lambda: _report(config, {}))
    results, summary = _report(config, trained.failed)
    if config.diagnose and not trained.stopped:
        for env, of_env in summary["environments"].items():
            of_env["diagnosis"] = diagnose(config, env, results, of_env, reporter)
        _write(config, results, summary)
    return Comparison(summary, markdown_of(parts_of(summary), pictures=False), trained.failed, trained.stopped)


def _report(config: ComparisonConfig, failed: Mapping[Cell, str]) -> tuple[list[Result], dict[str, Any]]:
    """The report on what is finished by now."""
    results = results_of(config.cells())
    summary = {**summary_of(config, results), "failed": {cell.words: why for cell, why in failed.items()}}
    _write(config, results, summary)
    return results, summary


def _write(config: ComparisonConfig, results: Sequence[Result], summary: Mapping[str, Any]) -> None:
    out, parts = config.out, parts_of(summary)
    pictures = {name: _png(figure) for name, figure in _figures(config, results, summary).items()}
    for name, data in pictures.items():
        write_atomically(out / f"{name}.png", lambda path, data=data: path.write_bytes(data))  # type: ignore[misc]
    markdown, page = markdown_of(parts), html_of(config.words, parts, pictures)
    write_json(out / "report.json", dict(summary))
    write_atomically(out / "report.md", lambda path: path.write_text(markdown, encoding="utf-8"))
    write_atomically(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))


def _figures(config: ComparisonConfig, results: Sequence[Result], summary: Mapping[str, Any]) -> dict[str, Figure]:
    """Every picture of the report, by its file's name."""
    drawn = {}
    for env, of_env in summary["environments"].items():
        here = [r for r in results if r.cell.env == env]
        drawn[f"curves-{slug(env)}"] = figures.curves(env, config.encoders, here)
        estimates = {encoder: values["iqm"] for encoder, values in of_env["encoders"].items()}
        drawn[f"scores-{slug(env)}"] = figures.intervals(
            env, config.encoders, estimates, of_env["random"], "IQM of returns after training"
        )
    if summary["overall"]["encoders"]:
        words = "IQM of scaled returns (0 random policy, 1 best encoder's mean)"
        drawn["scores"] = figures.intervals(
            "all environments", config.encoders, summary["overall"]["encoders"], 0.0, words
        )
    return drawn


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
