"""Reading values from the command line, and how the help looks."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

__all__ = ["Formatter", "add_encoder_device", "count", "env_arg", "fraction", "net_arch", "positive", "video_path"]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and uses the terminal's width up to 110 characters."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 112) - 2)


def env_arg(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`; the value is JSON (4, 0.5, true, null, [1, 2], "text"), or else the text itself."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as frame_skip=4")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def count(text: str) -> int:
    """A whole number of 1 or more; 100_000 and 1e5 are understood."""
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = 0.0
    # Python reads "inf", "nan" and 1e999 as floats too.
    if not math.isfinite(number) or number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more, such as 24000 or 1e5")
    return int(number)


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, "a number above 0", lambda x: 0 < x < float("inf"))


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def net_arch(text: str) -> tuple[int, ...]:
    """`64`, `64,64` or `none`."""
    if text == "none":
        return ()
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layer widths such as 64 or 64,64, nor none")
    return widths


def video_path(text: str) -> Path | None:
    """A path that ends in .gif or .mp4, or `none`."""
    if text == "none":
        return None
    path = Path(text)
    if path.suffix not in (".gif", ".mp4"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .gif or .mp4, or be none")
    return path


def add_encoder_device(parser: argparse._ArgumentGroup, default: str | None, shown: str) -> None:
    """The option that places the encoder."""
    parser.add_argument(
        "--device",
        default=default,
        metavar="DEVICE",
        help=f"where the encoder runs: auto (a CUDA GPU if there is one), cpu, cuda, cuda:1 (default: {shown})",
    )


def _number(text: str, wanted: str, good: Any) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not good(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number
