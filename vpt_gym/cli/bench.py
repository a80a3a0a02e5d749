"""`vpt-gym bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from vpt_gym.bench.plan import Plan
from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import check_writable, claimed, lock_of, write_json
from vpt_gym.running.options import Option, check_options

__all__ = ["add_parser"]

INTERRUPTED = 130
"""The exit code of an interrupted run, as for vpt-gym train."""

DESCRIPTION = """\
Measure an encoder on this machine: frames per second, latency, how near it
comes to the machine's own limit, memory, and what each precision costs in
accuracy. Candidates take turns in short rounds, so that they share the
machine's ups and downs; times are medians. Prints tables and writes a JSON
file with every number, the versions and the hardware. Ctrl-C ends a run early
and keeps what was measured."""

EXAMPLES = """\
examples:
  vpt-gym bench
  vpt-gym bench --encoder random:tiny --batch 1,8 --seconds 1
  vpt-gym bench --batch 8 --against minestudio --threads 2
  vpt-gym bench --encoder random:2x --encoder-arg layer=cnn
  vpt-gym bench --encoder CraftJarvis/MineStudio_VPT.rl_from_early_game_2x \\
    --video play.mp4 --json bench.json"""


@dataclass(frozen=True)
class Output:
    """Where the record goes."""

    json: Annotated[
        Path | None,
        Option("where the numbers go (default: runs/bench-<date>-<time>/bench.json)", group="output", metavar="FILE"),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench` to the commands."""
    summary = "measure speed, memory and accuracy on this machine"
    add_command(
        commands, "bench", Plan, run, summary=summary, description=DESCRIPTION, examples=EXAMPLES, also=(Output,)
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    plan, given = record_of(Plan, arguments), record_of(Output, arguments).json
    from vpt_gym.bench.report import heading, tables
    from vpt_gym.bench.run import Bench, check_plan

    target = given or Path("runs") / f"bench-{datetime.now().astimezone():%Y%m%d-%H%M%S}" / "bench.json"
    try:
        check_plan(plan)
        # The folder of a run is made when there is something to put into it.
        check_writable(given or target.parent)
    except VPTGymError as error:
        # Like any other wrong argument, and before weights are loaded.
        arguments.parser.error(str(error))

    def save() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, bench.record)

    # The folder may not be there yet, so what is held is the file's or the folder's name.
    with claimed(lock_of(given or target.parent), f"The place {target}"):
        bench = Bench(plan)
        say(heading(bench.record))
        with _progress() as show:
            complete = bench.run(show, save)
    say(f"\n{tables(bench.record)}\n\nEvery number is in {target}.")
    return 0 if complete else INTERRUPTED


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for each part on a terminal, a line for each part elsewhere; on standard error."""
    form = "  {desc:<14} {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1.0, miniters=0, bar_format=form, leave=False, dynamic_ncols=True, disable=None) as bar:
        shown = ""

        def show(what: str, share: float) -> None:
            nonlocal shown
            if what != shown:
                shown = what
                bar.reset()
                bar.set_description_str(what)
                if bar.disable:
                    print(f"  measuring {what}", file=sys.stderr, flush=True)
            bar.update(share - bar.n)  # which draws ten times a second at most

        yield show
