"""Nothing outlives a worker: a process group of its own, and a small program that ends what is left of it.

A worker that is killed, or hangs while the learner is killed, can close nothing any more; the game that it started would run
on. So each worker leads a process group, and a warden, which is no child of the worker's and imports the standard library
alone, waits for the worker's end and for the learner's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["guard"]

AFTER_LEADER: Final = 1.0
"""Seconds in which what a worker has left behind may end by itself,"""
AFTER_LEARNER: Final = 10.0
"""and in which a worker may close its environment, when the learner has gone."""
POLL: Final = 0.1
"""Seconds between two looks at a group that is about to end."""
POLL_WITHOUT_PIDFD: Final = 1.0
"""Seconds between two looks at processes, on systems that do not tell of their end."""


def guard(learner: int | None) -> None:
    """Makes this process the leader of a process group, and has a warden watch over it.

    Args:
        learner: a process of this machine without which the group is of no use to anybody; None for none.
    """
    if not hasattr(os, "killpg"):  # not a POSIX system: there are no groups
        return
    if os.getpgrp() != os.getpid():
        os.setsid()
    command = [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), str(learner or 0)]
    nowhere = subprocess.DEVNULL
    subprocess.run(command, check=True, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _main(leader: int, learner: int) -> None:
    ends = {process: _end_of(process) for process in (leader, learner) if process}
    if os.fork():  # the worker waits for this one alone, and what is left is a child of nobody's
        os._exit(0)
    # What began to end while the warden started has ended for it too.
    gone = _wait_for_one(ends)
    until = time.monotonic() + (AFTER_LEADER if gone == leader else AFTER_LEARNER)
    while time.monotonic() < until:
        if not _is_there(leader):
            return
        time.sleep(POLL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _end_of(process: int) -> int | None:
    """A descriptor that can be read once the process has ended; -1 if it has; None where the system has none such."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return -1
    except OSError:  # a kernel, or a sandbox, without them
        return None


def _wait_for_one(ends: dict[int, int | None]) -> int:
    """The first of the processes that ends."""
    while True:
        for process, end in ends.items():
            if end == -1 or (end is None and not _runs(process)):
                return process
        told = {end: process for process, end in ends.items() if end is not None}
        polled = len(told) < len(ends)
        poll = select.poll()
        for end in told:
            poll.register(end, select.POLLIN)
        for end, _ in poll.poll(POLL_WITHOUT_PIDFD * 1000 if polled else None):
            return told[end]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number has become another user's
        return False
    return True


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
