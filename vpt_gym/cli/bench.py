"""`vpt-gym bench`."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpt_gym.bench.plan import RIVALS, Plan
from vpt_gym.bench.rounds import Budget
from vpt_gym.cli.arguments import Formatter, add_encoder_device, count, positive
from vpt_gym.config import PRECISIONS
from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import check_writable, write_json

__all__ = ["add_parser"]

INTERRUPTED = 130
"""The exit code of an interrupted run, as for vpt-gym train."""

DESCRIPTION = """\
Measure the encoder on this machine: frames per second, latency, how near it
comes to the machine's own limit, memory, and what each precision costs in
accuracy. Candidates take turns in short rounds, so that they share the
machine's ups and downs; times are medians. Prints tables and writes a JSON
file with every number, the versions and the hardware. Ctrl-C ends a run early
and keeps what was measured."""

EXAMPLES = """\
examples:
  vpt-gym bench
  vpt-gym bench --encoder random:tiny --batch 1,8 --seconds 1
  vpt-gym bench --batch 8 --against minestudio,policy --threads 2
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
    parser.set_defaults(run=run, parser=parser)
    group = parser.add_argument_group("what")
    group.add_argument(
        "--encoder",
        default="random:2x",
        metavar="SOURCE",
        help="weights, as for vpt-gym train (default: %(default)s, untrained; time does not depend on their values)",
    )
    add_encoder_device(group, "auto", "auto")
    group.add_argument(
        "--batch",
        type=batches,
        default=(1, 8, 64, 256),
        metavar="N,N",
        help="environments stepped together (default: 1,8,64,256)",
    )
    group.add_argument(
        "--precision",
        type=precisions,
        metavar="P,P",
        help=f"any of {', '.join(PRECISIONS)} (default: float32, what auto means on this device, and bfloat16 where the "
        "hardware has it)",
    )
    group.add_argument(
        "--against",
        type=rivals,
        default=(),
        metavar="R,R",
        help="minestudio: MineStudio's own network, eager float32; minestudio-bf16: under autocast; policy: a PPO iteration "
        "with VPT inside the policy, which takes minutes",
    )
    _add_size(parser.add_argument_group("how much"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", type=Path, metavar="FILE", help="where the numbers go (default: runs/bench-<date>-<time>/bench.json)"
    )


def _add_size(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--threads", type=count, metavar="N", help="threads of torch (default: torch's own choice)")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds",
        type=positive,
        default=5.0,
        metavar="X",
        help="measured time of each candidate at each batch size, three steps at least (default: 5)",
    )
    length.add_argument("--steps", type=count, metavar="N", help="measured steps instead of seconds")
    group.add_argument(
        "--accuracy-steps",
        type=accuracy_steps,
        default=1000,
        metavar="N",
        help="steps of the comparison with float32; 0 leaves it out (default: %(default)s)",
    )
    group.add_argument(
        "--video",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="what to measure on (default: the Minecraft recordings in MineStudio's package; without it, synthetic pictures)",
    )
    group.add_argument(
        "--policy-steps",
        type=count,
        default=128,
        metavar="N",
        help="steps of each environment in the PPO iteration (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    from vpt_gym.bench.report import heading, tables
    from vpt_gym.bench.run import Bench, prepare

    plan = _plan(arguments)
    target: Path = arguments.json or Path("runs") / f"bench-{datetime.now().astimezone():%Y%m%d-%H%M%S}" / "bench.json"
    try:
        pictures = prepare(plan)
        check_writable(target)
    except VPTGymError as error:
        # Like any other wrong argument, and before minutes are spent.
        arguments.parser.error(str(error))
    try:
        bench = Bench(plan, pictures)
    except VPTGymError:
        if arguments.json is None:
            target.parent.rmdir()
        raise
    print(heading(bench.record), flush=True)
    with _Bar() as bar:
        complete = bench.run(bar.show, lambda: write_json(target, bench.record))
    print(f"\n{tables(bench.record)}\n\nEvery number is in {target}.")
    return 0 if complete else INTERRUPTED


class _Bar:
    """A progress bar for each part on a terminal, a line for each part elsewhere; on standard error."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what = ""
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, what: str, share: float) -> None:
        """`what` is being measured; so much of it is done."""
        if what != self._what:
            self._close()
            self._what = what
            if self._live:
                form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
                self._bar = tqdm(total=1.0, desc=f"  {what:<12}", bar_format=form, leave=False, dynamic_ncols=True)
            else:
                print(f"  measuring {what}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(share - self._bar.n)
            self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def batches(text: str) -> tuple[int, ...]:
    """`8` or `1,8,64`; each once."""
    try:
        found = tuple(dict.fromkeys(count(part) for part in text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers of 1 or more, such as 8 or 1,8,64"
        ) from None
    return found


def precisions(text: str) -> tuple[str, ...]:
    """Names of precisions with commas between them."""
    return _names(text, PRECISIONS)


def rivals(text: str) -> tuple[str, ...]:
    """Names of rivals with commas between them."""
    return _names(text, RIVALS)


def accuracy_steps(text: str) -> int:
    """0, or a whole number of 4 or more: growth is judged by quarters."""
    number = 0 if text == "0" else count(text)
    if 0 < number < 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too short: give 4 steps or more, or 0 to leave the comparison out"
        )
    return number


def _names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def _plan(arguments: argparse.Namespace) -> Plan:
    return Plan(
        encoder=arguments.encoder,
        device=arguments.device,
        batches=arguments.batch,
        precisions=arguments.precision,
        rivals=arguments.against,
        budget=Budget(arguments.seconds, arguments.steps),
        accuracy_steps=arguments.accuracy_steps,
        videos=tuple(arguments.video),
        policy_steps=arguments.policy_steps,
        threads=arguments.threads,
    )
