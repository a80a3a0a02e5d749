"""report.md: the summary as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown_of", "words_of"]


def markdown_of(summary: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    cells, matrix = summary["cells"], summary["matrix"]
    lines = [
        f"{cells['finished']} of {cells['total']} runs are finished, in {summary['hours']:.2f} hours of runs. "
        f"Hardware: {summary['hardware']}. Software: {', '.join(f'{n} {v}' for n, v in summary['versions'].items())}.",
    ]
    for env, of_env in summary["environments"].items():
        lines += ["", f"## {env}", ""]
        lines += [f"The random policy's mean return is {_number(of_env['random'])}.", ""]
        lines += table(
            [
                ["Encoder", "IQM of returns", "95% interval", "Mean", "Runs", "Training, s"],
                *(
                    [
                        words_of(encoder, values),
                        _number(values["iqm"]["value"]),
                        _interval(values["iqm"]),
                        _number(values["mean"]),
                        str(len(values["runs"])),
                        f"{values['training_seconds']:.0f}",
                    ]
                    for encoder, values in of_env["encoders"].items()
                ),
            ]
        )
    lines += _over_environments(summary)
    lines += ["", f"Options of every training: {_options(matrix['training'])}."]
    return "\n".join(lines) + "\n"


def _over_environments(summary: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    overall, better = summary["overall"], summary["improvement"]
    if overall["encoders"]:
        lines += ["", "## All environments", "", "The random policy is 0, the best encoder's mean is 1.", ""]
        lines += table(
            [
                ["Encoder", "IQM", "95% interval"],
                *([e, _number(v["value"]), _interval(v)] for e, v in overall["encoders"].items()),
            ]
        )
    if overall["nobody_beats_random"]:
        lines += [
            "",
            f"No encoder beats the random policy in {', '.join(overall['nobody_beats_random'])}: left out here.",
        ]
    if len(better["encoders"]) > 1:
        names = list(better["encoders"])
        lines += ["", "Probability that a run of the row's encoder scores higher than one of the column's:", ""]
        rows = [["", *names]]
        for ours in names:
            row = [ours]
            for theirs in names:
                estimate = better["encoders"][ours].get(theirs)
                row.append("" if estimate is None else f"{estimate['value']:.2f} {_interval(estimate)}")
            rows.append(row)
        lines += table(rows)
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its header first; the first column to the left, numbers to the right."""
    rule = [":---", *["---:"] * (len(rows[0]) - 1)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (rows[0], rule, *rows[1:])]


def words_of(encoder: str, values: Mapping[str, Any]) -> str:
    """An encoder's name, and whether it is untrained."""
    return f"{encoder} (untrained)" if values["untrained"] else encoder


def _number(value: float) -> str:
    return f"{value:+.2f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return "one run"
    return f"[{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _options(training: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in training.items()) or "the defaults"
