"""`vpt-gym compare`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tqdm import tqdm

from vpt_gym.cli.arguments import add_command, add_option, record_of
from vpt_gym.cli.terminal import duration, say
from vpt_gym.compare import Cell, ComparisonConfig, ComparisonReporter, Standing
from vpt_gym.compare.config import SHARED
from vpt_gym.compare.contestants import HELP
from vpt_gym.training.config import FleetConfig

__all__ = ["add_parser"]

DESCRIPTION = """\
Train a matrix: every environment with every encoder, over seeds, each an
ordinary run folder, in processes side by side. Then report: interquartile
means with bootstrap intervals, probabilities of improvement, curves, what
a linear probe reads out of the latents, as a page, Markdown and JSON. The same command goes on where it was stopped or
killed, and more environments, encoders or seeds may be added later."""

EXAMPLES = """\
examples:
  vpt-gym compare VizdoomBasic-v1 --env-arg frame_skip=4 --steps 24000 \\
    --encoders random:tiny random:tiny@cnn --seeds 3 --out runs/memory
  vpt-gym compare VizdoomHealthGatheringSupreme-v1?frame_skip=4 \\
    VizdoomDefendCenter-v1?frame_skip=4 --steps 500000 --seeds 5 --jobs 2 \\
    --encoders CraftJarvis/MineStudio_VPT.foundation_model_1x,random:1x \\
    --out runs/trained-or-not"""

LINE_SECONDS = 60.0
"""Without a terminal, a line a minute."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `compare` to the commands."""
    groups = add_command(
        commands,
        "compare",
        ComparisonConfig,
        run,
        summary="compare encoders over environments and seeds",
        description=DESCRIPTION,
        examples=EXAMPLES,
        also=(FleetConfig,),
    )
    groups["matrix"].add_argument("--encoders", nargs="+", action=_Names, required=True, metavar="SOURCE", help=HELP)
    for declared in SHARED:
        heading = declared.option.group
        if heading not in groups:
            groups[heading] = groups[""].add_argument_group(f"every training's {heading}")
        add_option(groups[heading], declared)


class _Names(argparse.Action):
    """Names by spaces, commas or both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        del parser, option_string
        setattr(namespace, self.dest, tuple(name for value in values for name in value.split(",") if name))


def run(arguments: argparse.Namespace) -> int:
    """Train what is not trained yet, and report."""
    given = vars(arguments)
    given["training"] = {declared.name: given.pop(declared.name) for declared in SHARED if declared.name in given}
    given["fleet"] = record_of(FleetConfig, arguments)
    config = record_of(ComparisonConfig, arguments)
    from vpt_gym.compare.comparison import compare

    with _Terminal(config) as reporter:
        result = compare(config, reporter)
    say(result.text)
    for cell, error in result.failed.items():
        print(f"vpt-gym: failed: {cell.words}: {' '.join(error.split())}", file=sys.stderr)
    if result.stopped:
        say(f"vpt-gym: stopped; the same command goes on where {config.out} stands.")
        return 130
    say(f"Everything is in {config.out}; open {config.out / 'report.html'}.")
    return 1 if result.failed else 0


class _Terminal(ComparisonReporter):
    """A bar for each cell under way on a terminal, a line now and then elsewhere, and one for each cell that ends."""

    def __init__(self, config: ComparisonConfig) -> None:
        self.config = config
        self.live = sys.stderr.isatty()
        self.bars: dict[Cell | None, tqdm[Any]] = {}
        self.lined = 0.0

    def __enter__(self) -> _Terminal:
        say(f"{self.config.words}; {self.config.jobs} at a time, in {self.config.out}")
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self.bars.values():
            bar.close()

    def checking(self, what: str) -> None:
        """A line."""
        self.line(f"  checking {what}")

    def probing(self, env: str, what: str) -> None:
        """A line."""
        self.line(f"  probing {env}: {what}")

    def ended(self, cell: Cell, score: float, seconds: float, standing: Standing) -> None:
        """A line."""
        self.line(f"{_count(standing)} {cell.words}: {score:+.2f} in {duration(seconds)}; {_left(standing)}")

    def failed(self, cell: Cell, error: str, standing: Standing) -> None:
        """A line."""
        self.line(f"{_count(standing)} {cell.words} FAILED: {' '.join(error.split())}")

    def standing(self, standing: Standing) -> None:
        """Move the bars, or print a line when it is time."""
        if not self.live:
            seconds = max((one.seconds for one in standing.running), default=0.0)
            if seconds - self.lined >= LINE_SECONDS or seconds < self.lined:
                self.lined = seconds
                for one in standing.running:
                    self.line(f"{_count(standing)} {one.cell.words}: {_words(one)}; {_left(standing)}")
            return
        wanted: dict[Cell | None, tuple[int, int, str]] = {
            None: (standing.done, standing.total, f"cells, {_left(standing)}")
        }
        for one in standing.running:
            wanted[one.cell] = (one.steps, one.cell.training.planned_steps, f"{one.cell.words}: {_words(one)}")
        for key in [key for key in self.bars if key not in wanted]:
            self.bars.pop(key).close()
        for key, (done, total, words) in wanted.items():
            if key not in self.bars:
                form = "  {percentage:3.0f}%|{bar:20}| {n:,}/{total:,} {postfix}"
                self.bars[key] = tqdm(total=total, bar_format=form, leave=False, dynamic_ncols=True)
            bar = self.bars[key]
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

    def line(self, text: str) -> None:
        """A line above the bars."""
        if self.live:
            tqdm.write(text)
        else:
            say(text)


def _count(standing: Standing) -> str:
    failed = f", {standing.failed} failed" if standing.failed else ""
    return f"[{standing.done} of {standing.total}{failed}]"


def _left(standing: Standing) -> str:
    return "time left unknown" if standing.seconds_left is None else f"{duration(standing.seconds_left)} left"


def _words(one: Any) -> str:
    mean = "" if one.mean_return is None else f", return {one.mean_return:+.1f}"
    return f"{one.phase}, {one.steps:,} of {one.cell.training.planned_steps:,} steps{mean}"
