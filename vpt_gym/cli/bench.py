"""`vpt-gym bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vpt_gym.bench.plan import RIVALS, Plan
from vpt_gym.cli.arguments import Formatter, add_option, count, env_arg, positive
from vpt_gym.cli.terminal import say
from vpt_gym.config import PRECISIONS
from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import check_writable, claimed, lock_of, write_json
from vpt_gym.running.options import Declared
from vpt_gym.training.config import ENCODER_OPTIONS

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


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench` to the commands."""
    parser = commands.add_parser(
        "bench",
        help="measure speed, memory and accuracy on this machine",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser, **vars(Plan()))
    what = parser.add_argument_group("what")
    what.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="any encoder, as for vpt-gym train (default: %(default)s, untrained; time does not depend on their values)",
    )
    what.add_argument(
        "--encoder-arg",
        type=env_arg,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of that kind of encoder, as for load_encoder; can be repeated",
    )
    add_option(what, Declared("device", str, None, ENCODER_OPTIONS.entries["device"]))
    what.add_argument(
        "--batch",
        dest="batches",
        type=batches,
        metavar="N,N",
        help="environments stepped together (default: 1,8,64,256)",
    )
    what.add_argument(
        "--precision",
        dest="precisions",
        type=partial(_names, PRECISIONS),
        metavar="P,P",
        help=f"any of {', '.join(PRECISIONS)} (default: float32, what auto means on this device, and bfloat16; of an "
        "encoder that is no VPT, its own choice)",
    )
    what.add_argument(
        "--against",
        dest="rivals",
        type=partial(_names, RIVALS),
        metavar="R,R",
        help="minestudio: MineStudio's own network of VPT's size, eager float32; minestudio-bf16: under autocast",
    )
    much = parser.add_argument_group("how much")
    much.add_argument("--threads", type=count, metavar="N", help="threads of torch (default: torch's own choice)")
    much.add_argument(
        "--seconds",
        type=positive,
        metavar="X",
        help="measured time of each candidate at each batch size, three steps at least (default: 5)",
    )
    much.add_argument(
        "--accuracy-steps",
        type=accuracy_steps,
        metavar="N",
        help="steps of the comparison with float32; 0 leaves it out (default: %(default)s)",
    )
    much.add_argument(
        "--video",
        dest="videos",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="what to measure on (default: the Minecraft recordings in MineStudio's package; without it, synthetic pictures)",
    )
    parser.add_argument_group("output").add_argument(
        "--json", type=Path, metavar="FILE", help="where the numbers go (default: runs/bench-<date>-<time>/bench.json)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    from vpt_gym.bench.report import heading, tables
    from vpt_gym.bench.run import Bench, check_plan

    options = dict(arguments.encoder_arg)
    for name, given in (("device", arguments.device), ("precision", arguments.precisions)):
        if given and name in options:
            arguments.parser.error(f"--{name} and --encoder-arg {name}= are the same option; give one of them")
    if arguments.device:
        options["device"] = arguments.device
    values = {**vars(arguments), "encoder_options": options, "videos": tuple(arguments.videos)}
    plan = Plan(**{field.name: values[field.name] for field in fields(Plan)})
    target: Path = arguments.json or Path("runs") / f"bench-{datetime.now().astimezone():%Y%m%d-%H%M%S}" / "bench.json"
    try:
        check_plan(plan)
        # The folder of a run is made when there is something to put into it.
        check_writable(arguments.json or target.parent)
    except VPTGymError as error:
        # Like any other wrong argument, and before weights are loaded.
        arguments.parser.error(str(error))

    def save() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, bench.record)

    # The folder of a run is made when there is something to put into it, so what is held is the file's or the folder's name.
    with claimed(lock_of(arguments.json or target.parent), f"The place {target}"):
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


def batches(text: str) -> tuple[int, ...]:
    """`8` or `1,8,64`; each once."""
    try:
        return tuple(dict.fromkeys(count(part) for part in text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers of 1 or more, such as 8 or 1,8,64"
        ) from None


def accuracy_steps(text: str) -> int:
    """0, or a whole number of 4 or more: growth is judged by quarters."""
    number = 0 if text == "0" else count(text)
    if 0 < number < 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too short: give 4 steps or more, or 0 to leave the comparison out"
        )
    return number


def _names(known: tuple[str, ...], text: str) -> tuple[str, ...]:
    """Some of the known names, with commas between them."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names
