"""No file that is half written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["write_atomically", "write_json"]


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
