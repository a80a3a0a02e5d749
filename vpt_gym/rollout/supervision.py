"""Environments that crash, hang and answer nonsense, behind a VecEnv that does not: one contract for all kinds of workers."""

from __future__ import annotations

import logging
import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from vpt_gym.errors import EnvironmentFailedError, VPTGymError
from vpt_gym.rollout.host import Answer
from vpt_gym.rollout.stacking import copied, outline, stacked
from vpt_gym.rollout.terms import Terms

__all__ = ["Gone", "Link", "SupervisedVecEnv"]

logger = logging.getLogger("vpt_gym")

HEALTHY_STEPS: Final = 100
"""Steps after which an environment that was made anew counts as well again; the end of an episode says so too."""


class Gone(Exception):  # noqa: N818 - it never leaves the room
    """A worker is no longer there; the words say how it ended."""


class Link(Protocol):
    """One worker, as its supervisor sees it."""

    def ask(self, command: str, arguments: tuple[Any, ...]) -> None:
        """Sends a command, without waiting; raises Gone where nobody is there."""

    def answer(self) -> Answer | None:
        """The answer to the command; None where it is not whole yet. Raises Gone where there will be none."""

    def kill(self) -> None:
        """Ends the worker and what it has started, at once, and gives back what it took here."""


@dataclass
class _Row:
    """What is known of one environment."""

    link: Link | None = None
    command: str = ""
    """What it is busy with; empty when it is idle."""
    asked: float = 0.0
    due: float = 0.0
    wake: float | None = None
    """When it is to be made anew, where it waits for that."""
    answer: Any = None
    """To the last question that was no step."""
    failures: int = 0
    """In a row."""
    steps: int = 0
    """Since it was made."""
    lives: int = 0
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    opened: bool = False
    """It has an episode, running or just begun."""
    fault: str = ""
    """That the learner has not been told of yet."""
    last: Any = None
    """The newest good observation of the episode that the learner sees."""
    observation: Any = None
    reset_info: dict[str, Any] = field(default_factory=dict)
    outcome: tuple[float, bool, dict[str, Any]] | None = None
    """Reward, done and info of the step under way, once they are known."""
    step_seconds: float = 0.0
    """A running mean."""


class SupervisedVecEnv(VecEnv):
    """A VecEnv of environments in workers that are watched, ended and begun anew.

    When an environment crashes, raises, hangs past its deadline, loses its connection, or gives an observation that is not of
    its space, a reward that is not finite, or an `error` in its info, then its worker's process group is killed and it is made
    anew, later and later with every failure in a row. The learner sees one ordinary transition: reward 0, done, truncated
    (`TimeLimit.truncated`), the last good observation as terminal observation, `info["fault"]` with what happened; the opening
    observation of a new episode follows. The others lose nothing.

    Args:
        makers: a function for each environment, which makes it in its worker.
        terms: what counts as a failure, and when it is one too many.

    Attributes:
        faults: failures so far, of all environments together.
        deaths: failures so far of each environment.

    Raises:
        VPTGymError: what vpt_gym itself refuses while an environment is made, such as an ObservationError.
        EnvironmentFailedError: an environment cannot be made; from `reset` and `step`: one has failed `max_failures` times in a
            row. It names the environment and the last cause.
    """

    kind: ClassVar[str]
    """What messages call a worker."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], terms: Terms) -> None:
        self.terms = terms
        self.closed = False
        self.deaths = [0] * len(makers)
        self._rows = [_Row() for _ in makers]
        self._busy: set[int] = set()
        self._alarm = math.inf
        """When a busy row is late, or to be made anew; a time before that does no harm."""
        self._spaces: tuple[spaces.Space[Any], spaces.Space[Any]] | None = None
        try:
            for row in range(len(makers)):
                self._begin(row)
            self._settle_all()
            assert self._spaces is not None
            super().__init__(len(makers), *self._spaces)
        except BaseException:
            self.close()
            raise

    @property
    def faults(self) -> int:
        """Failures so far, of all environments together."""
        return sum(self.deaths)

    def seed_each(self, seeds: Sequence[int]) -> None:
        """At the next reset environment i gets `seeds[i]`; `seed` counts up from one instead."""
        self._seeds = list(seeds)

    def reset(self) -> VecEnvObs:
        """Resets all environments."""
        self._settle_all()  # a step that was broken off
        for row, at in enumerate(self._rows):
            at.seed, at.options = self._seeds[row], self._options[row]
            at.fault, at.lives, at.outcome, at.opened = "", 0, None, True
            self._ask(row, "reset", at.seed, at.options)
        self._settle_all()
        for at in self._rows:
            at.fault, at.last = "", at.observation
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Hands the actions to the environments; one that was begun anew meanwhile gets none."""
        for row, at in enumerate(self._rows):
            at.outcome = None
            if not at.fault:
                self._ask(row, "step", actions[row])

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the environments."""
        self._settle_all()
        for at in self._rows:
            if at.fault:
                self._tell(at)
        self.reset_infos = [at.reset_info for at in self._rows]
        outcomes = [at.outcome for at in self._rows if at.outcome is not None]
        rewards, dones, infos = zip(*outcomes, strict=True)
        for at in self._rows:
            at.last = at.observation
        return self._observations(), np.array(rewards), np.array(dones), list(infos)

    def arrivals(self) -> Iterator[list[int]]:
        """Between `step_async` and `step_wait`: rows whose step is there and whose episode goes on, as they arrive.

        Ends when all have arrived. `arrived` gives their observations.
        """
        for rows in self._settle():
            running = [row for row in rows if self._goes_on(self._rows[row])]
            if running:
                yield running

    def arrived(self, rows: Iterable[int]) -> list[Any]:
        """The newest observations of rows that `arrivals` has named."""
        return [self._rows[row].observation for row in rows]

    def seconds_left(self) -> float:
        """Seconds until the last environment is expected to have made its step, at the pace of its last ones."""
        now = time.monotonic()
        rows = [self._rows[row] for row in self._busy]
        if any(at.command != "step" for at in rows):  # an episode has ended: a reset takes its time
            return float("inf")
        return max((at.asked + at.step_seconds - now for at in rows), default=0.0)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """What a method of the environments returns; raises what it raises."""
        return self._call(indices, "env_method", method_name, args, kwargs)

    def has_attr(self, attr_name: str) -> bool:
        """Whether every environment has it."""
        return all(self._call(None, "has_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments."""
        return self._call(indices, "get_attr", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the environments, until they are made anew."""
        self._call(indices, "set_attr", attr_name, value)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the environments are wrapped so."""
        return self._call(indices, "is_wrapped", wrapper_class)

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """A picture of each environment."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"The render mode is {self.render_mode}, and only rgb_array gives images.", stacklevel=2)
            return [None] * self.num_envs
        return self._call(None, "render")

    def histories(self) -> list[dict[str, Any] | None]:
        """What each running episode can be played again from.

        None for one that cannot be: its environment is not deterministic, or it has taken more than a minute.
        """
        found = self._call(None, "history")
        return [
            None if history is None or at.fault else {**history, "base": at.seed, "lives": at.lives}
            for at, history in zip(self._rows, found, strict=True)
        ]

    def replay(self, histories: Sequence[Mapping[str, Any] | None]) -> bool:
        """Brings new environments to where others were when `histories` was called.

        Returns:
            Whether every environment shows what it showed then. If not, `reset` is to be called.
        """
        if len(histories) != self.num_envs or any(history is None for history in histories):
            return False
        for row, (at, history) in enumerate(zip(self._rows, histories, strict=True)):
            at.answer = None
            self._ask(row, "replay", history)
        self._settle_all()
        for at, history in zip(self._rows, histories, strict=True):
            if at.answer is None or at.answer.kind == "error" or at.answer.value is None or history is None:
                return False
            at.observation = at.last = at.answer.value
            at.opened, at.seed, at.lives = True, history["base"], history["lives"]
        return True

    def close(self) -> None:
        """Ends every worker, within seconds whatever state it is in."""
        if self.closed:
            return
        self.closed = True
        links = [at.link for at in self._rows if at.link is not None]
        for at in self._rows:
            at.link, at.command = None, ""
        self._busy.clear()
        self._end(links)

    @abstractmethod
    def _start(self, row: int) -> Link:
        """A new worker for a row, which has been asked nothing yet."""

    @abstractmethod
    def _ready(self, rows: Collection[int], seconds: float) -> Collection[int]:
        """Those rows whose worker has begun to answer or is gone, as soon as there is one; none after so many seconds."""

    @abstractmethod
    def _end(self, links: Sequence[Any]) -> None:
        """Lets workers close their environments, and ends those that do not."""

    def _begin(self, row: int) -> None:
        at = self._rows[row]
        at.link, at.wake, at.steps = self._start(row), None, 0
        self._ask(row, "make")

    def _ask(self, row: int, command: str, *arguments: Any) -> None:
        at = self._rows[row]
        assert at.link is not None
        at.command, at.asked = command, time.monotonic()
        at.due = at.asked + (self.terms.deadline if command == "step" else self.terms.start_deadline)
        self._alarm = min(self._alarm, at.due)
        self._busy.add(row)
        try:
            at.link.ask(command, arguments)
        except Gone as gone:
            self._fail(row, str(gone))

    def _settle_all(self) -> None:
        for _ in self._settle():
            pass

    def _settle(self) -> Iterator[list[int]]:
        """Until no row is busy: takes answers, notices who is late, begins anew. Gives rows that have become idle."""
        while self._busy:
            ready = self._ready(self._busy, min(max(0.0, self._alarm - time.monotonic()), 3600.0))
            for row in ready:
                self._take(row)
            if self._alarm <= time.monotonic():
                self._look()
            settled = [row for row in ready if row not in self._busy]
            if settled:
                yield settled

    def _look(self) -> None:
        """Begins rows anew whose time it is, and fails those that are late."""
        now = time.monotonic()
        alarm = math.inf
        for row in list(self._busy):
            at = self._rows[row]
            if at.wake is not None and at.wake <= now:
                self._begin(row)
            elif at.wake is None and at.due <= now:
                limit = self.terms.deadline if at.command == "step" else self.terms.start_deadline
                self._fail(row, f"it hangs: no answer to {at.command!r} within {limit:g} s")
            alarm = min(alarm, at.due if at.wake is None else at.wake)
        self._alarm = alarm

    def _take(self, row: int) -> None:
        """Reads a row's answer, and asks what follows from it."""
        at = self._rows[row]
        assert at.link is not None
        try:
            answer = at.link.answer()
        except Gone as gone:
            self._fail(row, str(gone))
            return
        if answer is None:
            return
        command = at.command
        if answer.kind == "fault":
            self._fail(row, answer.value)
        elif answer.kind == "error" and command == "make":
            if not at.lives:  # at the first attempt it is no accident
                raise _cannot_be_made(row, answer.value)
            self._fail(row, f"{type(answer.value).__name__}: {answer.value}")
        else:
            at.command = ""
            self._busy.discard(row)
            if command == "make":
                self._made(row, answer.value)
            elif command == "reset":
                at.observation, at.reset_info = answer.value
            elif command == "step":
                self._stepped(row, answer.value)
            else:
                at.answer = answer

    def _made(self, row: int, found: tuple[spaces.Space[Any], spaces.Space[Any]]) -> None:
        at = self._rows[row]
        if self._spaces is None:
            self._spaces = found
        elif outline(found) != outline(self._spaces):
            raise EnvironmentFailedError(
                f"Environment {row} of {len(self._rows)} has other spaces than the others ({found[0]} and {found[1]}, not "
                f"{self._spaces[0]} and {self._spaces[1]}); make environments of one kind."
            )
        if at.opened:
            self._ask(row, "reset", _seed_of_life(at.seed, at.lives), at.options)

    def _stepped(self, row: int, value: tuple[Any, float, bool, bool, dict[str, Any]]) -> None:
        at = self._rows[row]
        observation, reward, terminated, truncated, info = value
        seconds = time.monotonic() - at.asked
        at.step_seconds = seconds if at.step_seconds == 0.0 else 0.9 * at.step_seconds + 0.1 * seconds
        at.steps += 1
        done = terminated or truncated
        if done or at.steps >= HEALTHY_STEPS:
            at.failures = 0
        info["TimeLimit.truncated"] = truncated and not terminated
        at.observation = observation
        at.outcome = (reward, done, info)
        if done:
            info["terminal_observation"] = observation
            self._ask(row, "reset", None, {})

    def _fail(self, row: int, cause: str) -> None:
        """An environment has failed: what is left of it is ended, and it is to be made anew; or the run stops here."""
        at = self._rows[row]
        when = f"in {at.command!r}" if at.command else "between two steps"
        self.deaths[row] += 1
        at.failures += 1
        at.lives += 1
        if at.link is not None:
            at.link.kill()
            at.link = None
        at.command = ""
        self._busy.discard(row)
        if at.opened and not at.fault:
            at.fault = f"{cause} ({when})"
        limit = self.terms.max_failures
        if at.failures >= limit:
            times = (
                f"{at.failures} times in a row" if at.failures > 1 else "once, which is all that max_failures allows"
            )
            raise EnvironmentFailedError(
                f"Environment {row} of {len(self._rows)} failed {times}; the last cause, {when}: {cause}. Stepped alone in a "
                "Python session, it shows its fault."
            )
        wait = self.terms.wait(at.failures)
        logger.warning(
            "Environment %d failed %s: %s. Its %s is ended, and it is made anew in %.1f s (failure %d in a row of %d).",
            *(row, when, cause, self.kind, wait, at.failures, limit),
        )
        at.wake = time.monotonic() + wait
        self._alarm = min(self._alarm, at.wake)
        self._busy.add(row)

    def _tell(self, at: _Row) -> None:
        """Puts a fault that the learner has not seen into the row's transition."""
        if at.outcome is not None and at.outcome[1]:
            # The episode had ended in good order, and it is its successor that failed to open.
            at.outcome[2]["fault"] = at.fault
        else:
            last = copied(at.last)
            info = {"fault": at.fault, "TimeLimit.truncated": True, "terminal_observation": last}
            at.outcome = (0.0, True, info)
        at.fault = ""

    def _goes_on(self, at: _Row) -> bool:
        return not at.fault and at.outcome is not None and not at.outcome[1]

    def _call(self, indices: VecEnvIndices, command: str, *arguments: Any) -> list[Any]:
        """The answers of environments to a question; one that fails over it is made anew and asked once more."""
        self._settle_all()
        rows = list(self._get_indices(indices))
        for row in rows:
            self._rows[row].answer = None
        while left := [row for row in rows if self._rows[row].answer is None]:
            for row in left:
                self._ask(row, command, *arguments)
            self._settle_all()
        answers: list[Answer] = [self._rows[row].answer for row in rows]
        for answer in answers:
            if answer.kind == "error":
                raise answer.value
        return [answer.value for answer in answers]

    def _observations(self) -> VecEnvObs:
        observations: VecEnvObs = stacked([at.observation for at in self._rows], self.observation_space)
        return observations


def _cannot_be_made(row: int, error: Exception) -> VPTGymError:
    if isinstance(error, VPTGymError):
        return error
    return EnvironmentFailedError(
        f"Environment {row} cannot be made: {error}. Make it in a Python session to see more."
    )


def _seed_of_life(seed: int | None, life: int) -> int | None:
    """A seed for an environment that is made anew, which must not play its first episodes once more."""
    if seed is None or life == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(life,)).generate_state(1, np.uint32)[0] >> 1)
