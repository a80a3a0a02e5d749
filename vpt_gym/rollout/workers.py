"""Environment processes that Ctrl-C does not reach, that close what they hold, and whose death is a sentence."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy.typing as npt
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vpt_gym.errors import VPTGymError

__all__ = ["WorkerDiedError", "WorkerVecEnv"]

CLOSE_SECONDS = 5.0
TERMINATE_SECONDS = 5.0


class WorkerDiedError(VPTGymError, RuntimeError):
    """A process that runs an environment has ended by itself."""


class WorkerVecEnv(SubprocVecEnv):
    """SB3's `SubprocVecEnv`, for environments that may fail and for people who press Ctrl-C.

    A terminal sends Ctrl-C to every process of the group. Here only the parent hears it, so that workers neither die in
    the middle of a step nor print tracebacks; what vpt_gym refuses while an environment is made is raised in the parent;
    a worker that dies for another reason raises `WorkerDiedError` there; and `close` ends within seconds whatever state
    the workers are in.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None) -> None:
        # The server that workers are forked from imports torch and SB3 once, instead of each of them: seconds on few cores.
        multiprocessing.set_forkserver_preload(["vpt_gym.sb3"])
        makers: list[Callable[[], gym.Env[Any, Any]]] = [_Deaf(fn) for fn in env_fns]
        if start_method in {None, "forkserver"} and "forkserver" in multiprocessing.get_all_start_methods():
            # Workers are as deaf as the server that forks them, so this process need not be while they make environments.
            with _sigint_ignored():
                resource_tracker.ensure_running()
                forkserver.ensure_running()
            with _sigint_noted() as heard, self._death_explained():
                super().__init__(makers, start_method=start_method)
            if heard:
                self.close()
                raise KeyboardInterrupt
        else:
            with _sigint_ignored(), self._death_explained():
                super().__init__(makers, start_method=start_method)

    def seed_each(self, seeds: Sequence[int]) -> None:
        """At the next reset environment i gets `seeds[i]`; `seed` counts up from one instead."""
        self._seeds = list(seeds)

    def reset(self) -> VecEnvObs:
        with self._death_explained():
            return super().reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        with self._death_explained():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        with self._death_explained():
            return super().step_wait()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        with self._death_explained():
            return super().env_method(method_name, *args, indices=indices, **kwargs)

    def has_attr(self, attr_name: str) -> bool:
        with self._death_explained():
            return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        with self._death_explained():
            values = super().get_attr(attr_name, indices)
        for value in values:
            if isinstance(
                value, VPTGymError
            ):  # of a `_Refused`: VecEnv's constructor asks every worker for `render_mode`
                self.close()
                raise value
        return values

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        with self._death_explained():
            super().set_attr(attr_name, value, indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        with self._death_explained():
            return super().env_is_wrapped(wrapper_class, indices)

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        with self._death_explained():
            return super().get_images()

    def close(self) -> None:
        """End every worker: asked first, terminated after five seconds in all, killed after five more."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            # A dead worker's pipe is broken, and there is nobody left to ask.
            with contextlib.suppress(OSError):
                remote.send(("close", None))
        deadline = time.monotonic() + CLOSE_SECONDS
        for process in self.processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.terminate()
        deadline = time.monotonic() + TERMINATE_SECONDS
        for process in late:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            # A worker that hangs outside Python never gets to its SIGTERM handler.
            if process.is_alive():
                process.kill()
                process.join()
        for remote in self.remotes:
            remote.close()

    @contextlib.contextmanager
    def _death_explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.join(timeout=0.2)
            codes = _exit_codes(self.processes)
            raise WorkerDiedError(
                f"An environment process ended by itself ({codes}); what it printed stands above. The others cannot go on "
                "without it: close the VecEnv and make a new one. Stepped alone in a Python session, the environment shows its "
                "fault."
            ) from error


class _Deaf:
    """An env constructor that first makes its process deaf to Ctrl-C.

    The signal is blocked, not ignored, where the platform can: ViZDoom installs a C++ handler of its own over Python's.
    Threads and child processes (a game engine) inherit the block.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        self.make = make

    def __call__(self) -> gym.Env[Any, Any]:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return _ClosedAtExit(self.make())
        except VPTGymError as error:
            return _Refused(error)


class _Refused(gym.Env[Any, Any]):
    """Stands in a worker for an environment that vpt_gym refused to make: its render mode is the refusal.

    The parent raises it, so that a refusal is the same sentence with workers as without.
    """

    observation_space = action_space = gym.spaces.Discrete(1)

    def __init__(self, refusal: VPTGymError) -> None:
        self.render_mode: Any = refusal


class _ClosedAtExit(gym.Wrapper[Any, Any, Any, Any]):
    """Closes its env when the worker ends, also by SIGTERM or because the parent was killed.

    Otherwise a game engine in a process of its own would live on. What vpt_gym itself raises, such as EnvironmentCrashed, ends
    the worker with that sentence, and without a traceback through the simulator.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._close_once = multiprocessing.util.Finalize(None, env.close, exitpriority=0)
        signal.signal(signal.SIGTERM, _leave)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with _told():
            result = super().reset(seed=seed, options=options)
        # ViZDoom starts its engine in the first reset, and installs a C++ handler for this signal over Python's.
        signal.signal(signal.SIGTERM, _leave)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        with _told():
            return super().step(action)

    def close(self) -> None:
        self._close_once()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except VPTGymError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        sys.exit(1)


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


def _exit_codes(processes: Sequence[Any]) -> str:
    dead = [f"number {i}: exit code {p.exitcode}" for i, p in enumerate(processes) if p.exitcode is not None]
    return "; ".join(dead) or "no exit code known"
