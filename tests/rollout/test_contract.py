"""One contract for every kind of worker: what fails is begun anew, and is one ordinary transition for the learner."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.rollout.faulty_env import FAULTS, FaultyEnv
from tests.support.ray import require_ray
from vpt_gym.errors import EnvironmentFailedError, ObservationError, VPTGymError
from vpt_gym.rollout import RayVecEnv, WorkerVecEnv
from vpt_gym.rollout.supervision import SupervisedVecEnv
from vpt_gym.rollout.terms import Terms

Maker = Callable[..., SupervisedVecEnv]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all tests of this file, which `RayVecEnv` finds running."""
    found = require_ray()
    found.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    found.shutdown()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Any:
    """Processes; in tests that are marked `both`, Ray's actors too, each of which takes seconds to start."""
    if getattr(request, "param", WorkerVecEnv) is WorkerVecEnv:
        return WorkerVecEnv
    request.getfixturevalue("ray")
    return partial(RayVecEnv, num_cpus=0)


both = pytest.mark.parametrize("kind", [WorkerVecEnv, RayVecEnv], ids=["processes", "ray"], indirect=True)


@pytest.fixture
def make(kind: Any) -> Iterator[Maker]:
    made: list[SupervisedVecEnv] = []

    def maker(count: int = 2, *, deadline: float = 3.0, backoff: float = 0.01, **options: Any) -> SupervisedVecEnv:
        terms = {name: options.pop(name) for name in ("max_failures", "start_deadline") if name in options}
        makers = [partial(FaultyEnv, number, **options) for number in range(count)]
        made.append(kind(makers, deadline=deadline, backoff=backoff, **terms))
        return made[-1]

    yield maker
    for venv in made:
        venv.close()


def actions(*given: int) -> np.ndarray:
    return np.array(given)


def gone(process: int, seconds: float = 15.0) -> bool:
    """Whether a process ends within so many seconds; one that nobody has buried has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@both
def test_every_fault_is_one_ordinary_transition(make: Maker, kind: Any) -> None:
    venv = make(length=1000, deadline=3.0 if kind is WorkerVecEnv else 15.0)  # Ray's messages take their time
    venv.seed(3)
    opening = venv.reset()
    drawn, last, steps = {int(opening[1, 0, 0, 1])}, opening[1].copy(), 0
    faults = FAULTS if kind is WorkerVecEnv else ("raise", "kill", "hang")
    for fault in faults:
        for action in (0, 1 + FAULTS.index(fault)):
            observations, rewards, dones, infos = venv.step(actions(0, action))
            steps += 1
            # The other one goes on, step by step.
            assert observations[0, 0, 0].tolist() == [0, opening[0, 0, 0, 1], steps % 256]
            assert (rewards[0], dones[0]) == (1.0, False)
            assert "fault" not in infos[0]
            if not action:
                assert (rewards[1], dones[1]) == (1.0, False)
                last = observations[1].copy()
        assert (rewards[1], dones[1]) == (0.0, True)
        assert infos[1]["TimeLimit.truncated"] is True
        assert np.array_equal(infos[1]["terminal_observation"], last), fault
        assert infos[1]["fault"], fault
        # A picture of the new environment's, of an episode that was not played before.
        assert observations[1, 0, 0].tolist()[0::2] == [1, 0]
        drawn.add(int(observations[1, 0, 0, 1]))
    assert venv.deaths == [0, len(faults)]
    assert venv.faults == len(faults)
    assert len(drawn) > len(faults) // 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", r"ZeroDivisionError: planted \(.*faulty_env.py, line \d+\) \(in 'step'\)"),
        ("hang", r"it hangs: no answer to 'step' within 1 s"),
        ("shape", r"the observation has shape \(5, 16, 3\), where the space says \(16, 16, 3\)"),
        ("nan", r"the reward is not finite as a float32 \(nan\)"),
        ("error", r"info\['error'\] says: the server said no"),
        ("crash", r"EnvironmentCrashed: the game is gone"),
    ],
)
def test_a_fault_says_what_happened(fault: str, words: str, make: Maker) -> None:
    venv = make(1, deadline=1.0)
    venv.reset()
    began = time.monotonic()
    info = venv.step(actions(1 + FAULTS.index(fault)))[3][0]
    assert time.monotonic() - began >= (1.0 if fault == "hang" else 0.0)
    assert re.match(words, info["fault"]), info["fault"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("hang", WorkerVecEnv), ("kill", WorkerVecEnv), ("raise", WorkerVecEnv), ("kill", RayVecEnv)],
    indirect=["kind"],
)
def test_nothing_is_left_of_a_worker_that_failed(fault: str, make: Maker) -> None:
    venv = make(2, deadline=1.0, game=True)
    venv.reset()
    (mine, game), theirs = venv.env_method("processes")
    venv.step(actions(1 + FAULTS.index(fault), 0))
    assert gone(mine)
    assert gone(game)
    assert venv.env_method("processes")[1] == theirs
    processes = [process for mine in venv.env_method("processes") for process in mine]
    assert all(not gone(process, 0.0) for process in processes)
    venv.close()
    assert all(gone(process) for process in processes)


def test_an_environment_that_keeps_failing_stops_the_run(make: Maker) -> None:
    venv = make(2, max_failures=3)
    venv.reset()
    for _ in range(2):
        venv.step(actions(0, 1))
    with pytest.raises(EnvironmentFailedError, match=r"Environment 1 of 2 failed 3 times in a row; .*planted"):
        venv.step(actions(0, 1))


def test_the_end_of_an_episode_makes_good(make: Maker) -> None:
    venv = make(1, length=2, max_failures=2)
    venv.reset()
    for action in (1, 0, 0, 1, 0, 0, 1):
        _, _, dones, infos = venv.step(actions(action))
    assert venv.faults == 3
    assert dones[0]
    assert "fault" in infos[0]


def test_an_environment_that_cannot_be_reset_stops_the_run(make: Maker) -> None:
    venv = make(1, refuse_resets=True, max_failures=2)
    with pytest.raises(EnvironmentFailedError, match=r"failed 2 times in a row; .* in 'reset': OSError: no disk"):
        venv.reset()


def test_an_environment_that_cannot_be_made(kind: Any) -> None:
    def broken() -> gym.Env[Any, Any]:
        raise KeyError("no such map")

    def refused() -> gym.Env[Any, Any]:
        raise ObservationError("planted")

    with pytest.raises(EnvironmentFailedError, match=r"Environment 1 cannot be made: KeyError: 'no such map'"):
        kind([FaultyEnv, broken])
    with pytest.raises(ObservationError, match=r"^planted$"):
        kind([FaultyEnv, refused])
    with pytest.raises(EnvironmentFailedError, match=r"has other spaces than the others"):
        kind([FaultyEnv, partial(gym.make, "CartPole-v1")])


def test_a_worker_that_died_unseen_is_begun_anew_by_whoever_asks(make: Maker) -> None:
    venv = make(2)
    venv.reset()
    observations = venv.step(actions(0, 0))[0]
    os.kill(venv.env_method("processes")[1][0], 9)
    time.sleep(0.5)
    assert venv.get_attr("number") == [0, 1]
    _, rewards, dones, infos = venv.step(actions(0, 0))
    assert rewards.tolist() == [1.0, 0.0]
    assert dones.tolist() == [False, True]
    assert np.array_equal(infos[1]["terminal_observation"], observations[1])
    assert venv.step(actions(0, 0))[0][1, 0, 0, 2] == 1


def test_what_is_asked_of_environments_is_answered_or_raised(make: Maker) -> None:
    venv = make(2)
    assert venv.has_attr("number")
    assert not venv.has_attr("absent")
    venv.set_attr("length", 3, indices=[1])
    assert venv.get_attr("length") == [10, 3]
    assert venv.env_is_wrapped(gym.Wrapper) == [False, False]
    venv.reset()
    assert [image.shape for image in venv.get_images()] == [(16, 16, 3)] * 2  # type: ignore[union-attr]
    with pytest.raises(AttributeError, match="absent"):
        venv.get_attr("absent")
    with pytest.raises(RuntimeError, match="planted"):
        venv.env_method("fail", "raise")
    assert venv.faults == 0


@both
def test_rows_arrive_as_they_are_ready(make: Maker, tmp_path: Path) -> None:
    venv = make(2, deadline=30.0)
    read = tmp_path / "read"
    venv.set_attr("awaited", read, indices=[1])
    venv.reset()
    venv.step_async(actions(0, 0))
    arrived = []
    for rows in venv.arrivals():
        arrived.append(rows)
        if rows == [0]:
            assert venv.arrived(rows)[0][0, 0].tolist()[0::2] == [0, 1]
            read.touch()
    assert arrived == [[0], [1]]
    assert venv.step_wait()[0][:, 0, 0, 2].tolist() == [1, 1]
    assert venv.faults == 0


@both
def test_a_reset_waits_for_nobody_else_s_step(make: Maker, tmp_path: Path) -> None:
    venv = make(2, deadline=30.0)
    venv.reset()
    opened = tmp_path / "opened"
    venv.set_attr("length", 1, indices=[0])
    venv.set_attr("opened", opened, indices=[0])
    venv.set_attr("awaited", opened, indices=[1])
    for _ in range(2):
        opened.unlink(missing_ok=True)
        _, rewards, dones, infos = venv.step(actions(0, 0))
        assert (rewards.tolist(), dones.tolist()) == ([1.0, 1.0], [True, False])
        assert not any("fault" in info for info in infos)


def test_seconds_left_follow_from_the_last_steps(make: Maker) -> None:
    venv = make(2)
    venv.set_attr("slow", 0.5, indices=[1])
    venv.reset()
    venv.step(actions(0, 0))
    venv.step_async(actions(0, 0))
    assert 0.1 < venv.seconds_left() <= 0.6
    assert venv.step_wait()[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": 0}, "deadline must be a number of seconds above 0, not 0"),
        ({"max_failures": 0}, "max_failures must be a positive whole number, not 0"),
    ],
)
def test_impossible_terms(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VPTGymError, match=message):
        Terms(**options)


def test_the_waits_grow_and_are_drawn() -> None:
    terms = Terms(backoff=1.0)
    for failures, longest in ((1, 1.0), (3, 4.0), (9, 30.0)):
        waits = [terms.wait(failures) for _ in range(20)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 1


def test_no_descriptor_is_left_of_restarts() -> None:
    venv = WorkerVecEnv([FaultyEnv], backoff=0.001)
    venv.reset()

    def held() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count

    for _ in range(2):
        venv.step(actions(1))
    before = held()
    for _ in range(5):
        for action in (1, 0, 0):
            venv.step(actions(action))
        venv._rows[0].failures = 0
    assert held() <= before
    venv.close()
