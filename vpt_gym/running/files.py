"""No file that is half written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpt_gym.errors import OptionError

__all__ = ["check_writable", "write_atomically", "write_json"]


def check_writable(target: Path) -> None:
    """Make the folder of `target` and try to write beside it, so that hours of work are not lost to a wrong path.

    Raises:
        OptionError: the folder cannot be made or written to, or `target` is a folder.
    """
    if target.is_dir():
        raise OptionError(f"{target} is a folder; name a file in it.")
    attempt = target.with_name(f".{target.name}.attempt")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt.touch()
        attempt.unlink()
    except OSError as error:
        raise OptionError(f"{target} cannot be written: {error.strerror}; name a file in a folder of yours.") from error


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path beside `target` and of the same suffix, then move the result into place."""
    temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON, atomically."""
    text = json.dumps(values, indent=2) + "\n"
    write_atomically(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
