"""The report's parts, in order, and the Markdown and the page that are made of them."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vpt_gym.compare.config import slug

__all__ = ["Part", "html_of", "markdown_of", "parts_of"]


@dataclass(frozen=True)
class Part:
    """One part of a report.

    Attributes:
        kind: `heading`, `text`, `list`, `table` or `picture`.
        text: of a heading, a text, or a picture's name.
        rows: of a table, its header first; of a list, its items.
    """

    kind: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()


def parts_of(summary: Mapping[str, Any]) -> list[Part]:
    """The report of a summary, as `summary_of` makes it."""
    cells = summary["cells"]
    software = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    parts = [
        Part(
            "text",
            f"{cells['finished']} of {cells['total']} runs are finished, in {summary['hours']:.2f} hours of runs. "
            f"Hardware: {summary['hardware']}. Software: {software}.",
        )
    ]
    for words, why in summary["failed"].items():
        parts.append(Part("text", f"Failed: {words}: {why}"))
    parts += _over_environments(summary)
    for env, of_env in summary["environments"].items():
        parts += _environment(env, of_env)
    options = ", ".join(f"{name}={value!r}" for name, value in summary["matrix"]["training"].items())
    fleet = ", ".join(f"{name}={value!r}" for name, value in summary["matrix"]["fleet"].items() if value)
    how = f"Options of every training: {options or 'the defaults'}. Where environments ran, in the last call: {fleet}. {_HOW}"
    parts += [Part("heading", "How"), Part("text", how)]
    return parts


_HOW: Final = (
    "A run's score is the mean return of its evaluation after training, actions sampled. IQM is the interquartile mean of the "
    "scores; intervals are percentiles of a bootstrap that resamples runs within each environment (Agarwal et al., arXiv "
    "2108.13264): with fewer than ten runs an encoder they come out too narrow. A curve's point is the mean of the training "
    "episodes that ended in the tenth of the training before it; a band is the range of the runs. Wall time counts the "
    "training alone, with what else ran beside it."
)


def _environment(env: str, of_env: Mapping[str, Any]) -> list[Part]:
    parts = [Part("heading", env), Part("text", f"The random policy's mean return is {_number(of_env['random'])}.")]
    rows = [["Encoder", "IQM of returns", "95% interval", "Mean", "Runs", "Training, s"]]
    for encoder, values in of_env["encoders"].items():
        played = values["training_seconds"] is None
        rows.append(
            [
                f"{encoder} ({'its encoder ' if played else ''}untrained)" if values["untrained"] else encoder,
                _number(values["iqm"]["value"]),
                _interval(values["iqm"]),
                _number(values["mean"]),
                str(len(values["runs"])),
                "-" if played else f"{values['training_seconds']:.0f}",
            ]
        )
    parts += [Part("table", rows=rows), Part("picture", f"scores-{slug(env)}"), Part("picture", f"curves-{slug(env)}")]
    threshold = of_env["threshold"]
    if threshold is not None:
        rows = [["Encoder", "Runs that reach it", "Median steps", "Median minutes"]]
        for encoder, values in threshold["encoders"].items():
            reached = values["reached"] > 0
            rows.append(
                [
                    encoder,
                    f"{values['reached']} of {values['runs']}",
                    f"{values['steps']:,.0f}" if reached else "-",
                    f"{values['minutes']:.1f}" if reached else "-",
                ]
            )
        parts += [
            Part(
                "text",
                f"Half-way from the random policy to the best encoder is a return of {_number(threshold['return'])}:",
            ),
            Part("table", rows=rows),
        ]
    diagnosis = of_env.get("diagnosis")
    if diagnosis is not None:
        rows = [["Latents", "Return to come explained, R²", "Spread", "Directions used"]]
        rows += [
            [name, f"{values['r2']:.2f}", f"{values['spread']:.2f}", f"{values['directions']:.0f} of {values['size']}"]
            for name, values in diagnosis["latents"].items()
        ]
        parts += [
            Part("text", diagnosis["words"]),
            Part("table", rows=rows),
            Part("list", rows=[[line] for line in diagnosis["advice"]]),
        ]
        told = {name: values.get("told", {}) for name, values in diagnosis["latents"].items()}
        labels = list(dict.fromkeys(label for values in told.values() for label in values))
        if labels:
            parts += [
                Part("text", "What a linear probe reads of what the environment tells beside the picture, R²:"),
                Part(
                    "table",
                    rows=[
                        ["Latents", *labels],
                        *([name, *(f"{values[label]:.2f}" for label in labels)] for name, values in told.items()),
                    ],
                ),
            ]
    return parts


def _over_environments(summary: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    overall, better = summary["overall"], summary["improvement"]
    if overall["encoders"]:
        parts += [
            Part("heading", "All environments"),
            Part("text", "On a scale where the random policy is 0 and the best encoder's mean is 1:"),
            Part(
                "table",
                rows=[
                    ["Encoder", "IQM", "95% interval"],
                    *([name, _number(v["value"]), _interval(v)] for name, v in overall["encoders"].items()),
                ],
            ),
            Part("picture", "scores"),
        ]
    if overall["nobody_beats_random"]:
        where = ", ".join(overall["nobody_beats_random"])
        parts.append(Part("text", f"No encoder beats the random policy in {where}, which is therefore left out here."))
    names = list(better["encoders"])
    if len(names) > 1:
        rows = [["", *names]]
        for ours in names:
            estimates = [better["encoders"][ours].get(theirs) for theirs in names]
            rows.append([ours, *("" if e is None else _chance(e) for e in estimates)])
        parts += [
            Part("text", "Probability that a run of the row's encoder scores higher than one of the column's:"),
            Part("table", rows=rows),
        ]
    return parts


def markdown_of(parts: Sequence[Part], *, pictures: bool = True) -> str:
    """The report as Markdown, with links to its pictures or without."""
    blocks = []
    for part in parts:
        if part.kind == "heading":
            blocks.append(f"## {part.text}")
        elif part.kind == "list":
            blocks.append("\n".join(f"- {item[0]}" for item in part.rows))
        elif part.kind == "table":
            rule = [":---", *["---:"] * (len(part.rows[0]) - 1)]
            table = (part.rows[0], rule, *part.rows[1:])
            blocks.append(
                "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)
            )
        elif part.kind == "text":
            blocks.append(part.text)
        elif pictures:
            blocks.append(f"![{part.text}]({part.text}.png)")
    return "\n\n".join(blocks) + "\n"


def html_of(title: str, parts: Sequence[Part], pictures: Mapping[str, bytes]) -> str:
    """The report as one page that needs no other file: PNG pictures are inside."""
    blocks = []
    for part in parts:
        text = html.escape(part.text)
        if part.kind == "heading":
            blocks.append(f'<h2 id="{slug(part.text)}">{text}</h2>')
        elif part.kind == "text":
            blocks.append(f"<p>{text}</p>")
        elif part.kind == "list":
            blocks.append("<ul>" + "".join(f"<li>{html.escape(item[0])}</li>" for item in part.rows) + "</ul>")
        elif part.kind == "table":
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in part.rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in part.rows[1:]
            )
            blocks.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')
        else:
            data = base64.b64encode(pictures[part.text]).decode("ascii")
            blocks.append(f'<img alt="{text}" src="data:image/png;base64,{data}">')
    links = "".join(
        f'<a href="#{slug(part.text)}">{html.escape(part.text)}</a>' for part in parts if part.kind == "heading"
    )
    return _PAGE.format(title=html.escape(title), links=links, body="\n".join(blocks))


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fff; --ink: #222; --link: #1f5fa8; --line: #ddd; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
html {{ color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.6rem; }}
h2 {{ font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }}
nav a {{ margin-right: 1.2rem; color: var(--link); overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; height: auto; display: block; margin: 1rem 0; }}
@media (prefers-color-scheme: dark) {{
:root {{ --paper: #121212; --ink: #ededed; --link: #8ab8f0; --line: #444; }}
/* White to the paper's grey, black to the ink's, and colours turned back to what they were. */
img {{ filter: invert(0.93) hue-rotate(180deg); }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{body}
</body>
</html>
"""


def _number(value: float) -> str:
    return f"{value:+.2f}"


def _chance(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['value']:.2f}" + ("" if estimate["low"] is None else f" {_interval(estimate)}")


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return "one run"
    return f"[{estimate['low']:.2f}, {estimate['high']:.2f}]"
