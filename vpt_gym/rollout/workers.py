"""Environments in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import pickle
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any, ClassVar, Final

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from vpt_gym.rollout.host import Answer, EnvHost, stay_deaf
from vpt_gym.rollout.messages import Channel
from vpt_gym.rollout.supervision import Gone, Link, SupervisedVecEnv
from vpt_gym.rollout.terms import Terms
from vpt_gym.rollout.warden import guard

__all__ = ["WorkerVecEnv"]

CLOSE_SECONDS: Final = 5.0
TERMINATE_SECONDS: Final = 5.0

UNPICKLABLE: Final = (AttributeError, TypeError, ValueError, RecursionError, pickle.PicklingError)
"""What pickling says of an answer that cannot travel."""


class WorkerVecEnv(SupervisedVecEnv):
    """Environments in processes of this machine, watched and made anew when they fail; see `SupervisedVecEnv`.

    A terminal sends Ctrl-C to every process of the group. Here only the learner hears it, so that workers neither die in the
    middle of a step nor print tracebacks. Each worker leads a process group of its own, of which nothing is left when the
    worker or the learner has ended, however it ended.

    Args:
        env_fns: a function for each environment, which makes it in its process.
        start_method: how processes are started; by default `forkserver` where there is one, and `spawn` elsewhere.
        deadline: seconds that a step may take.
        start_deadline: seconds that an environment may take to be made, to be reset, and to answer any other question.
        max_failures: failures in a row, of one environment, that stop the run.
        backoff: seconds before an environment is made anew, about; twice as many with every further failure in a row.

    Attributes:
        processes: of the environments, in order.
    """

    kind: ClassVar[str] = "process"

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        start_method: str | None = None,
        *,
        deadline: float = Terms.deadline,
        start_deadline: float = Terms.start_deadline,
        max_failures: int = Terms.max_failures,
        backoff: float = Terms.backoff,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._method = start_method or ("forkserver" if "forkserver" in methods else "spawn")
        self._context: Any = multiprocessing.get_context(self._method)
        self._makers = [CloudpickleWrapper(make) for make in env_fns]
        self._selector = selectors.DefaultSelector()
        terms = Terms(deadline, start_deadline, max_failures, backoff)
        if self._method == "forkserver":
            # The server that workers are forked from imports torch and SB3 once, instead of each: seconds on few cores.
            multiprocessing.set_forkserver_preload(["vpt_gym.sb3"])
            # Workers are as deaf as the server that forks them, so this process need not be while they make environments.
            with _sigint_ignored():
                resource_tracker.ensure_running()
                forkserver.ensure_running()
        with _sigint_noted() as heard:
            super().__init__(env_fns, terms)
        if heard:
            self.close()
            raise KeyboardInterrupt

    @property
    def processes(self) -> list[Any]:
        """The processes of the environments, in order; None for one that is about to be made anew."""
        return [at.link.process if isinstance(at.link, _ProcessLink) else None for at in self._rows]

    def _start(self, row: int) -> Link:
        with _sigint_ignored() if self._method == "spawn" else contextlib.nullcontext():
            return _ProcessLink(
                row, self._context, self._method, self._makers[row], self._selector, self.terms.deadline
            )

    def _ready(self, rows: Collection[int], seconds: float) -> Collection[int]:
        ready = []
        for key, _ in self._selector.select(seconds):
            if key.data in rows:
                ready.append(key.data)
            else:  # gone, with nothing to answer: whoever asks next is told, and until then it would wake this loop for ever
                self._selector.unregister(key.fileobj)
        return ready

    def _end(self, links: Sequence[_ProcessLink]) -> None:
        for link in links:
            link.channel.patience = CLOSE_SECONDS
            # A dead worker's connection is broken, and there is nobody left to ask.
            with contextlib.suppress(Gone):
                link.ask("close", ())
        deadline = time.monotonic() + CLOSE_SECONDS
        for link in links:
            link.process.join(timeout=max(0.0, deadline - time.monotonic()))
        late = [link for link in links if link.process.is_alive()]
        for link in late:
            link.process.terminate()
        deadline = time.monotonic() + TERMINATE_SECONDS
        for link in late:
            link.process.join(timeout=max(0.0, deadline - time.monotonic()))
        for link in links:
            # What hangs outside Python never gets to its SIGTERM handler.
            link.kill()
        self._selector.close()


class _ProcessLink:
    """One worker process, as the learner sees it."""

    def __init__(
        self,
        row: int,
        context: Any,
        method: str,
        maker: CloudpickleWrapper,
        selector: selectors.BaseSelector,
        patience: float,
    ) -> None:
        self._selector = selector
        self._end, work_end = socket.socketpair()
        self.channel = Channel(self._end, patience)
        inherited = self._end if method == "fork" else None
        self.process = context.Process(target=_work, args=(work_end, inherited, maker, os.getpid()), daemon=True)
        self.process.start()
        work_end.close()
        selector.register(self._end, selectors.EVENT_READ, row)

    def ask(self, command: str, arguments: tuple[Any, ...]) -> None:
        try:
            self.channel.send((command, arguments))
        except TimeoutError as error:
            raise Gone(f"it hangs: it has read nothing for {self.channel.patience:g} s") from error
        except OSError as error:
            raise Gone(self._ended()) from error

    def answer(self) -> Answer | None:
        try:
            answer: Answer | None = self.channel.receive()
        except (EOFError, OSError) as error:
            raise Gone(self._ended()) from error
        return answer

    def kill(self) -> None:
        if self._end.fileno() == -1:
            return
        if self._end in self._selector.get_map():
            self._selector.unregister(self._end)
        self._end.close()
        if self.process.is_alive():
            # A worker that has not come to lead a group yet has started nothing either.
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        # What a worker that is gone has left behind is its warden's.
        self.process.join()

    def _ended(self) -> str:
        self.process.join(timeout=1.0)
        code = self.process.exitcode
        if code is None:
            return "its process has closed its connection"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended by itself (exit code {code})"


def _work(end: socket.socket, inherited: socket.socket | None, maker: CloudpickleWrapper, learner: int) -> None:
    """What a worker process does: it answers until nobody asks any more."""
    stay_deaf()
    if inherited is not None:
        inherited.close()
    guard(learner)
    channel = Channel(end)
    host = EnvHost(maker.var)
    # Whatever ends the process, a game engine in a process of its own must not live on.
    close_once = multiprocessing.util.Finalize(None, host.close, exitpriority=0)
    signal.signal(signal.SIGTERM, _leave)
    while True:
        try:
            command, arguments = channel.receive()
        except (EOFError, OSError):
            break
        answer = host.ask(command, arguments)
        if command != "step":
            # ViZDoom starts its engine in the first reset, and installs a C++ handler over Python's.
            signal.signal(signal.SIGTERM, _leave)
        try:
            channel.send(answer)
        except OSError:
            break
        except UNPICKLABLE as error:
            what = f"its answer to {command!r} cannot be sent ({type(error).__name__}: {error})"
            broken = command in ("step", "reset")
            channel.send(Answer("fault", what) if broken else Answer("error", RuntimeError(what)))
        if command == "close":
            break
    close_once()


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process through its finalizers, which a second SIGTERM must not cut off."""
    del frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Start processes that are deaf from their first instruction: a child inherits that a signal is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _sigint_noted() -> Iterator[list[int]]:
    """Inside, Ctrl-C waits: the list has an entry for each."""
    heard: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous == signal.SIG_IGN:
        yield heard
        return
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, previous)
