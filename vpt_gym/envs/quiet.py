"""What MineStudio prints while it resets goes to the log `vpt_gym.envs.minecraft`, not into the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final, TextIO

__all__ = ["printing_to_log"]

_LOGGER: Final = logging.getLogger("vpt_gym.envs.minecraft")
_lock = threading.Lock()
_quiet_threads: list[int] = []
"""Identities of the threads that are being listened to, once for each time."""


class _Ear(io.TextIOBase):
    """Stands in for sys.stdout: logs what the quiet threads print, and hands on what the others do."""

    def __init__(self, stdout: TextIO) -> None:
        self.stdout = stdout
        self._lines: dict[int, str] = {}

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        if thread not in _quiet_threads:
            return self.stdout.write(text)
        *lines, rest = (self._lines.get(thread, "") + text).split("\n")
        self._lines[thread] = rest
        for line in lines:
            if line.strip():
                _LOGGER.info(line.rstrip())
        return len(text)

    def flush(self) -> None:
        self.stdout.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stdout, name)


@contextlib.contextmanager
def printing_to_log() -> Iterator[None]:
    """Within it, what this thread prints is logged at level INFO; other threads print as ever."""
    thread = threading.get_ident()
    with _lock:
        if not isinstance(sys.stdout, _Ear):
            sys.stdout = _Ear(sys.stdout)
        _quiet_threads.append(thread)
    try:
        yield
    finally:
        with _lock:
            _quiet_threads.remove(thread)
            if not _quiet_threads and isinstance(sys.stdout, _Ear):
                sys.stdout = sys.stdout.stdout
