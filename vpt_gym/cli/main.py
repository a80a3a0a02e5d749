"""The entry point: which command, and how a failure ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vpt_gym import __version__
from vpt_gym.cli import (
    bench,
    clone,
    compare,
    diffuse,
    encode,
    evaluate,
    inspect,
    nearest,
    pretrain,
    probe,
    push,
    record,
    train,
)
from vpt_gym.cli.arguments import Formatter
from vpt_gym.errors import VPTGymError

__all__ = ["main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, 128 + SIGINT, as shells expect; SIGTERM asks for the same end and gets the same code."""

DESCRIPTION = """\
Reinforcement learning on latents: every frame of a pixel environment runs
through a frozen encoder, such as VPT (Video PreTraining, OpenAI 2022), and a
Stable-Baselines3 algorithm trains a light head on what comes out."""

EXAMPLES = """\
examples:
  A first run on two CPU cores, in minutes, with a small untrained network:
    vpt-gym train VizdoomBasic-v1 --encoder random:tiny --steps 24000 \\
      --env-arg frame_skip=4
  The same on VPT's own weights, 1 GB from the hub; wants a GPU:
    vpt-gym train VizdoomBasic-v1 --env-arg frame_skip=4 \\
      --encoder CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  Play what was trained, and film it:
    vpt-gym eval runs/VizdoomBasic-v1-20250101-120000
  See what an encoder is and what a checkpoint holds:
    vpt-gym inspect foundation-model-2x.weights
  See how fast this machine is, and what a precision costs:
    vpt-gym bench --encoder random:2x --batch 1,8

'vpt-gym COMMAND --help' explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        0 when all went well, 1 after an error that a user can mend, 130 after Ctrl-C or SIGTERM. Wrong usage leaves through
        `SystemExit` with code 2, `--help` and `--version` with code 0, as argparse does.
    """
    # Environments in worker processes share the cores with the network. OpenMP's threads spin while they wait, unless told
    # to sleep before torch is first imported; spinning ones take the cores from the very workers that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # But a step is some hundred short operations, and being woken for each would cost a small network a third of its speed:
    # GCC's OpenMP spins for about a tenth of a millisecond before it sleeps.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except VPTGymError as error:
        print(f"vpt-gym: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nvpt-gym: stopped; there was nothing to save.", file=sys.stderr)
        return INTERRUPTED
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of `vpt-gym` and its commands."""
    parser = argparse.ArgumentParser(
        prog="vpt-gym", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=Formatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"vpt-gym {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        train,
        evaluate,
        compare,
        record,
        encode,
        clone,
        diffuse,
        pretrain,
        probe,
        nearest,
        push,
        inspect,
        bench,
    ):
        command.add_parser(commands)
    return parser
