"""Ctrl-C and SIGTERM as a wish to stop, not as an accident."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

__all__ = ["StopSignal", "Stopped"]


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised between two steps of an evaluation when the user has asked to stop."""


class StopSignal:
    """While entered, the first Ctrl-C or SIGTERM sets `requested` and the next ones raise KeyboardInterrupt.

    SIGTERM is what `timeout`, a container or a cluster's scheduler sends before it kills.

    A run that looks at `requested` after every step ends at a step's border, with nothing half done. The second Ctrl-C
    is for a run that does not get there, because an environment hangs. Outside the main thread, where Python delivers
    no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._held = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def take_back(self) -> None:
        """Takes the signals from a library that has put handlers of its own in the place of these."""
        for number in self._previous:
            signal.signal(number, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no signal raises: for writing files."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raise `Stopped` if the user has asked to stop."""
        if self.requested:
            raise Stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested and not self._held:
            raise KeyboardInterrupt
        self.requested = True
