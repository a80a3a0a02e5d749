from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.rollout.faulty_env import FaultyEnv
from tests.training.pixel_env import LightEnv
from vpt_gym.errors import EnvironmentFailedError, NonFiniteLatent, ObservationError
from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.rollout.messages import Channel
from vpt_gym.rollout.workers import WorkerVecEnv


class Telling(gym.Wrapper):  # type: ignore[type-arg]
    """Says whether its process could hear Ctrl-C, and can be told to die."""

    def deaf(self) -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())

    def pid(self) -> int:
        return os.getpid()

    def mark_closing(self, path: Path) -> None:
        self.closing = path

    def close(self) -> None:
        if hasattr(self, "closing"):
            self.closing.touch()
        super().close()


class Choking(FaultyEnv):
    """Its worker sends half of the answer to a step, where the action is 1, and then nothing more."""

    def step(self, action: Any) -> Any:
        if action:
            Channel.send = _half  # type: ignore[method-assign]
        return super().step(0)

    def take(self, given: bytes) -> int:
        return len(given)


def _half(channel: Channel, message: Any) -> None:
    pickled = pickle.dumps(message)
    channel._end.sendall(struct.pack("!Q", len(pickled)) + pickled[: len(pickled) // 2])
    time.sleep(1e6)


@pytest.fixture
def venv() -> Iterator[WorkerVecEnv]:
    made = WorkerVecEnv([lambda: Telling(LightEnv(die_after=3))] * 2, max_failures=2, backoff=0.01)
    yield made
    made.close()


def test_starting_workers_leaves_the_parents_ears_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    WorkerVecEnv([LightEnv]).close()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_workers_start_is_not_lost() -> None:
    """It ends the start when that is through, and the workers with it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may be deaf
    before = set(multiprocessing.active_children())
    parent = os.getpid()

    def interrupted() -> LightEnv:
        os.kill(parent, signal.SIGINT)
        return LightEnv()

    try:
        with pytest.raises(KeyboardInterrupt):
            WorkerVecEnv([interrupted, LightEnv])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert set(multiprocessing.active_children()) <= before


def test_workers_are_deaf_and_their_death_is_told(venv: WorkerVecEnv) -> None:
    assert venv.env_method("deaf") == [True, True]
    venv.reset()
    for pid in venv.env_method("pid"):
        os.kill(pid, signal.SIGINT)
    for _ in range(2):
        venv.step(np.zeros(2, int))
    infos = venv.step(np.zeros(2, int))[3]
    assert [info["fault"] for info in infos] == ["its process ended by itself (exit code 3) (in 'step')"] * 2
    for _ in range(2):
        venv.step(np.zeros(2, int))
    with pytest.raises(EnvironmentFailedError, match=r"failed 2 times in a row; .* \(exit code 3\)"):
        venv.step(np.zeros(2, int))
    processes = venv.processes
    venv.close()
    assert not any(process.is_alive() for process in processes if process)


@pytest.mark.parametrize(
    "ask",
    [
        lambda venv: venv.get_attr("steps"),
        lambda venv: venv.has_attr("steps"),
        lambda venv: venv.set_attr("steps", 0),
        lambda venv: venv.env_is_wrapped(Telling),
        lambda venv: venv.env_method("pid"),
        lambda venv: venv.reset(),
    ],
)
def test_whatever_a_dead_worker_is_asked_another_answers(
    ask: Callable[[WorkerVecEnv], object], venv: WorkerVecEnv
) -> None:
    killed = venv.processes[1]
    killed.kill()
    killed.join()
    ask(venv)
    assert venv.deaths == [0, 1]


@pytest.mark.parametrize("refusing", [0, 1])
def test_a_refusal_in_a_worker_is_raised_here_as_it_was(refusing: int, capfd: pytest.CaptureFixture[str]) -> None:
    def refused() -> gym.Env[Any, Any]:
        raise NonFiniteLatent("planted", [3])

    makers: list[Callable[[], gym.Env[Any, Any]]] = [lambda: LightEnv(render_mode="rgb_array")] * 2
    makers[refusing] = refused
    before = set(multiprocessing.active_children())
    with pytest.raises(NonFiniteLatent, match=r"^planted$") as caught:
        WorkerVecEnv(makers)
    assert caught.value.rows == [3]
    assert set(multiprocessing.active_children()) <= before
    assert "Traceback" not in capfd.readouterr().err


def test_a_refused_space_is_one_sentence_with_any_number_of_workers(capfd: pytest.CaptureFixture[str]) -> None:
    said = set()
    for n_envs in (1, 2):
        with pytest.raises(ObservationError) as caught:
            make_latent_vec_env("CartPole-v1", n_envs, encoder="random:tiny")
        said.add(str(caught.value))
    assert len(said) == 1
    assert capfd.readouterr().err == ""


def test_each_environment_gets_its_own_seed(venv: WorkerVecEnv) -> None:
    def noise() -> list[float]:
        return [generator.random() for generator in venv.get_attr("np_random")]

    venv.seed_each([7, 5])
    venv.reset()
    seen = noise()
    venv.seed_each([5, 7])
    venv.reset()
    assert noise() == seen[::-1]
    assert seen[0] != seen[1]


def test_closing_in_the_middle_of_a_step_ends_every_worker(venv: WorkerVecEnv) -> None:
    venv.reset()
    venv.step_async(np.zeros(2, int))
    processes = set(venv.processes)
    venv.close()
    venv.close()
    assert not processes & set(multiprocessing.active_children())


def test_sigterm_closes_the_env(venv: WorkerVecEnv, tmp_path: Path) -> None:
    for i in range(2):
        venv.env_method("mark_closing", tmp_path / str(i), indices=i)
    for process in venv.processes:
        process.terminate()
        process.join()
    assert [process.exitcode for process in venv.processes] == [143, 143]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def test_a_worker_that_hangs_in_the_middle_of_its_answer_is_late() -> None:
    venv = WorkerVecEnv([partial(Choking, number) for number in range(2)], deadline=1.0, backoff=0.01)
    venv.reset()
    began = time.monotonic()
    infos = venv.step(np.array([1, 0]))[3]
    assert "it hangs: no answer to 'step' within 1 s" in infos[0]["fault"]
    assert "fault" not in infos[1]
    assert time.monotonic() - began >= 1.0
    venv.close()


def test_a_worker_that_reads_nothing_is_begun_anew() -> None:
    """Where what it is told is more than the system keeps for it."""
    venv = WorkerVecEnv([Choking], deadline=1.0, backoff=0.01)
    venv.reset()
    os.kill(venv.processes[0].pid, signal.SIGSTOP)
    assert venv.env_method("take", bytes(5_000_000)) == [5_000_000]
    assert venv.faults == 1
    assert "it has read nothing for 1 s" in venv.step(np.array([0]))[3][0]["fault"]
    venv.close()


def test_a_worker_that_dies_unasked_keeps_nobody_awake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another makes its step; the step that it had made counts."""
    awaited = tmp_path / "awaited"
    venv = WorkerVecEnv([FaultyEnv, partial(FaultyEnv, awaited=awaited)], backoff=0.01)
    venv.reset()
    looks: list[Any] = []
    ready = venv._ready

    def counted(*given: Any) -> Any:
        looks.append(ready(*given))
        if looks == [[0]]:
            os.kill(venv.processes[0].pid, signal.SIGKILL)
        elif looks == [[0], []]:  # its end has been seen
            awaited.touch()
        return looks[-1]

    monkeypatch.setattr(venv, "_ready", counted)
    _, rewards, _, infos = venv.step(np.array([0, 0]))
    assert (rewards.tolist(), "fault" in infos[0]) == ([1.0, 1.0], False)
    assert looks == [[0], [], [1]]
    dones, infos = venv.step(np.array([0, 0]))[2:]
    assert "SIGKILL" in infos[0]["fault"]
    assert dones.tolist() == [True, False]
    venv.close()
