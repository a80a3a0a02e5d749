"""What MineStudio prints while it resets goes to the log `vpt_gym.envs.minecraft`, not into the user's terminal."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, TextIO, cast

__all__ = ["printing_to_log"]

_LOGGER: Final = logging.getLogger("vpt_gym.envs.minecraft")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_lock = threading.Lock()
_quiet_threads: list[int] = []
"""Identities of the threads that are being listened to, once for each time."""


class _Ear:
    """Stands in for sys.stdout: logs what the quiet threads print, and is the real one in everything else."""

    def __init__(self, stdout: TextIO) -> None:
        self.stdout = stdout
        self.unfinished: dict[int, str] = {}  # the beginning of a line, by thread

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        if thread not in _quiet_threads:
            return self.stdout.write(text)
        *lines, rest = (self.unfinished.pop(thread, "") + text).split("\n")
        if rest:
            self.unfinished[thread] = rest
        for line in lines:
            _log(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stdout, name)


def _log(line: str) -> None:
    """Without colours: whoever asks hears that the real stdout is a terminal, where it is one."""
    line = _COLOURS.sub("", line).rstrip()
    if line:
        _LOGGER.info(line)


@contextlib.contextmanager
def printing_to_log() -> Iterator[None]:
    """Within it, what this thread prints is logged at level INFO; other threads print as ever."""
    thread = threading.get_ident()
    with _lock:
        if not isinstance(sys.stdout, _Ear):
            sys.stdout = cast(TextIO, _Ear(sys.stdout))
        ear = cast(_Ear, sys.stdout)
        _quiet_threads.append(thread)
    try:
        yield
    finally:
        with _lock:
            _quiet_threads.remove(thread)
            if not _quiet_threads and isinstance(sys.stdout, _Ear):
                sys.stdout = sys.stdout.stdout
        _log(ear.unfinished.pop(thread, ""))
