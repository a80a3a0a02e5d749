"""Environments in Ray's actors, on this machine or on many."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import gymnasium as gym
import stable_baselines3.common.vec_env.base_vec_env as sb3

from vpt_gym.checks import is_between
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.extras import import_extra
from vpt_gym.rollout.host import Answer, EnvHost, stay_deaf
from vpt_gym.rollout.supervision import Gone, Link, SupervisedVecEnv
from vpt_gym.rollout.terms import Terms
from vpt_gym.rollout.warden import guard

__all__ = ["RayVecEnv"]

CLOSE_SECONDS: Final = 5.0
KNOCK_SECONDS: Final = 10.0
OBJECT_STORE_BYTES: Final = 256 * 2**20
"""For frames on their way; 100 KB and more go through Ray's store, smaller ones through its messages."""


class RayVecEnv(SupervisedVecEnv):
    """Environments in Ray's actors, watched and made anew when they fail; see `SupervisedVecEnv`.

    Where the actors run, and what follows when a node is lost, is Ray's. vpt_gym must be installed on every node. Without an
    address a Ray of its own starts on this machine, unless `ray.init` was called already, and ends when the last of these
    VecEnvs is closed.

    Args:
        env_fns: a function for each environment, which makes it in its actor.
        address: of a running cluster, as for `ray.init`, such as `auto` or `10.0.0.1:6379`.
        num_cpus: cores that Ray sets aside for each environment; None for one on a cluster, and for none in particular on this
            machine.
        memory: bytes that Ray sets aside for each environment.
        resources: custom resources that each environment takes up, such as `{"minecraft": 1}`.
        deadline: seconds that a step may take.
        start_deadline: seconds that an environment may take to be placed and made, to be reset, and to answer other questions.
        max_failures: failures in a row, of one environment, that stop the run.
        backoff: seconds before an environment is made anew, about; twice as many with every further failure in a row.

    Raises:
        VPTGymError: as for `SupervisedVecEnv`; or Ray is not installed or does not start, or no cluster is at the address.
    """

    kind: ClassVar[str] = "actor"
    _open: ClassVar[int] = 0
    """VecEnvs that use the Ray that the first of them has started."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        address: str | None = None,
        *,
        num_cpus: float | None = None,
        memory: float | None = None,
        resources: Mapping[str, float] | None = None,
        deadline: float = Terms.deadline,
        start_deadline: float = Terms.start_deadline,
        max_failures: int = Terms.max_failures,
        backoff: float = Terms.backoff,
    ) -> None:
        terms = Terms(deadline, start_deadline, max_failures, backoff)
        for name, value in (("num_cpus", num_cpus), ("memory", memory)):
            if value is not None and not is_between(value, 0):
                raise OptionError(f"{name} must be a number from 0 on for each environment, not {value!r}.")
        self._ray: Any = import_extra("ray", "fleet", "RayVecEnv")
        self._ours = self._connect(address, len(env_fns) * (num_cpus or 0))
        if num_cpus is None:
            num_cpus = 0.0 if self._ours else 1.0
        # Spread, so that a lost node takes few environments along, and none waits for the cores of another.
        options = {"num_cpus": num_cpus, "memory": memory, "resources": dict(resources or {}), "max_restarts": 0}
        self._actor = self._ray.remote(_EnvActor).options(scheduling_strategy="SPREAD", **options)
        self._makers = [self._ray.put(sb3.CloudpickleWrapper(make)) for make in env_fns]
        self._learner = (self._ray.get_runtime_context().get_node_id(), os.getpid())
        super().__init__(env_fns, terms)

    def _connect(self, address: str | None, cores: float) -> bool:
        """Whether the Ray behind this process is one that a VecEnv has started."""
        if self._ray.is_initialized():
            if RayVecEnv._open:
                RayVecEnv._open += 1
            return bool(RayVecEnv._open)
        if address is not None:
            try:
                _knock(address)
                self._ray.init(address, log_to_driver=False)
            except Exception as error:  # Ray has no narrower class for most of its refusals
                raise VPTGymError(
                    f"No Ray cluster answers at {address!r} ({_in_a_line(error)}); start one with: ray start --head, with the "
                    "Ray and the Python of this machine; or leave address out, and Ray starts here."
                ) from error
            return False
        # Ray reads these: nothing is told to anybody, and environments are no background work.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            self._ray.init(
                "local",
                # Ray's count of cores is an account, no limit: all environments of this machine must find their place.
                num_cpus=max(os.cpu_count() or 1, -int(-cores // 1)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
            )
        except Exception as error:
            raise VPTGymError(
                f"Ray does not start on this machine ({_in_a_line(error)}); its logs are in ray/session_latest/logs under "
                "RAY_TMPDIR, or /tmp. Where the machine is only busy or short of memory, try again later, or put the "
                "environments into processes."
            ) from error
        RayVecEnv._open = 1
        return True

    def nodes(self) -> list[str | None]:
        """Ray's id of the node that each environment runs on; None for one that is about to be made anew."""
        links = [at.link for at in self._rows]
        return [link.node() if isinstance(link, _ActorLink) else None for link in links]

    def _start(self, row: int) -> Link:
        return _ActorLink(self._ray, self._actor.remote(self._makers[row], self._learner))

    def _ready(self, rows: Collection[int], seconds: float) -> Collection[int]:
        links = ((self._rows[row].link, row) for row in rows)
        waiting: dict[Any, int] = {link.pending: row for link, row in links if isinstance(link, _ActorLink)}
        if not waiting:
            time.sleep(seconds)
            return ()
        ready, left = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
        if ready and left:  # Ray gives no more than was asked for
            ready += self._ray.wait(left, num_returns=len(left), timeout=0)[0]
        return [waiting[reference] for reference in ready]

    def _end(self, links: Sequence[_ActorLink]) -> None:
        if self._ray.is_initialized():
            for link in links:
                with suppress(Gone):
                    link.ask("close", ())
            if links:
                self._ray.wait([link.pending for link in links], num_returns=len(links), timeout=CLOSE_SECONDS)
            for link in links:
                link.kill()
        if self._ours:
            RayVecEnv._open -= 1
            if not RayVecEnv._open:
                self._ray.shutdown()


class _ActorLink:
    """One actor, as the learner sees it."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self.pending: Any = None
        """Ray's reference to the answer that is waited for."""

    def ask(self, command: str, arguments: tuple[Any, ...]) -> None:
        self.pending = self._actor.answer.remote(command, arguments)

    def answer(self) -> Answer:
        try:
            answer: Answer = self._ray.get(self.pending)
        except self._ray.exceptions.RayTaskError as error:  # an answer that cannot travel
            return Answer("fault", " ".join(str(error.cause).split()))
        except self._ray.exceptions.RayError as error:
            raise Gone(f"its actor is gone ({_in_a_line(error)})") from error
        return answer

    def kill(self) -> None:
        # What the actor has started is its warden's.
        self._ray.kill(self._actor)
        self.pending = None

    def node(self) -> str:
        """Ray's id of the node that the actor runs on."""
        found: str = self._ray.get(self._actor.node.remote())
        return found


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at `host:port` or `ray://host:port`, for which Ray itself waits for minutes."""
    place = urlsplit(address if "//" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=KNOCK_SECONDS).close()


def _in_a_line(error: Exception) -> str:
    """An error of Ray's, which are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'Ray says no more'}"


class _EnvActor:
    """What runs in an actor.

    Args:
        maker: of the environment.
        learner: the node and the process that the learner runs on.
    """

    def __init__(self, maker: sb3.CloudpickleWrapper, learner: tuple[str, int]) -> None:
        stay_deaf()
        node, process = learner
        guard(process if node == self.node() else None)
        self._host = EnvHost(maker.var)

    def answer(self, command: str, arguments: tuple[Any, ...]) -> Answer:
        """The host's answer."""
        return self._host.ask(command, arguments)

    def node(self) -> str:
        """The id of the node that it runs on."""
        import ray

        found: str = ray.get_runtime_context().get_node_id()
        return found
