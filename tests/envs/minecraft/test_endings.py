"""How an episode ends: death, task, time; and what is no end at all, a game that crashes, hangs or never comes up."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.engine import MinecraftEngine
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.envs.minecraft.engine import FAULTS as MINESTUDIO_S_FAULTS
from vpt_gym.envs.minecraft.engine import _first_cause
from vpt_gym.envs.minecraft.env import MinecraftEnv
from vpt_gym.errors import EnvironmentCrashed, ResetNeeded, VPTGymError

ROOT = Path(__file__).parents[2]
NOTHING = np.array([0, 60])
OPENING = 2
"""Empty frames of a reset, which the engine counts as steps."""


def step_until_the_end(env: gym.Env[Any, Any], limit: int = 40) -> tuple[int, bool, bool]:
    for count in range(1, limit + 1):
        _, _, terminated, truncated, _ = env.step(NOTHING)
        if terminated or truncated:
            return count, terminated, truncated
    raise AssertionError(f"no end within {limit} steps")


@pytest.mark.parametrize("kind", ["no_health", "respawn", "mission_end"])
def test_death_and_a_mission_s_end_terminate(make: Any, minecraft_engine: MinecraftEngine, kind: str) -> None:
    env = make(callbacks=[("FastResetCallback", {"biomes": ["plains"], "random_tp_range": 100})])
    minecraft_engine.fail(kind, after=OPENING + 3)
    env.reset(seed=1)
    assert step_until_the_end(env) == (3, True, False)
    with pytest.raises(ResetNeeded, match="no episode is running"):
        env.step(NOTHING)
    minecraft_engine.recover()
    env.reset()
    # A fast reset kills the player too, after the end: that death is not the new episode's.
    for _ in range(5):
        _, _, terminated, truncated, info = env.step(NOTHING)
        assert (terminated, truncated) == (False, False)
    missions = len(minecraft_engine.notes("mission"))
    assert missions == (2 if kind == "mission_end" else 1), "only a mission that has ended needs a new one"
    assert (info["custom"]["deaths"] > 0) == (kind != "mission_end")
    assert len(minecraft_engine.notes("started")) == 1


def test_time_limits_truncate(make: Any) -> None:
    env = make(max_episode_steps=4, callbacks=[("JudgeResetCallback", {"time_limit": 6})])
    env.reset(seed=1)
    assert step_until_the_end(env) == (4, False, True)
    inner = env.unwrapped
    for _ in range(2):
        inner.reset()
        for count in range(1, 7):
            _, _, terminated, truncated, _ = inner.step({"buttons": 0, "camera": 60})
            assert (terminated, truncated) == (False, count == 6), (
                "MineStudio's own limit, which it reports as termination"
            )
        with pytest.raises(ResetNeeded):
            inner.step({"buttons": 0, "camera": 60})


FAULTS = {
    "crash": "Minecraft's process ended while it made a step.*MineStudio reports: ",
    "hang": "Minecraft broke off while it made a step.*TimeoutError: timed out",
    "short_picture": "Minecraft broke off while it made a step.*ValueError: cannot reshape array of size 100",
    "broken_facts": "Minecraft broke off while it made a step.*JSONDecodeError",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_an_error_and_the_next_reset_starts_the_game_anew(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "hang":
        messenger = import_minestudio("minestudio.simulator.minerl.env._multiagent")
        monkeypatch.setattr(messenger, "SOCKTIME", 0.5)
    env = make()
    env.reset(seed=4)
    env.step(NOTHING)
    minecraft_engine.fail(kind)
    with pytest.raises(EnvironmentCrashed, match=f"{FAULTS[kind]}.*reset starts it anew") as caught:
        env.step(NOTHING)
    assert isinstance(caught.value, VPTGymError)
    assert ".." not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert minecraft_engine.processes() == [], "a game that broke off is not left behind"
    with pytest.raises(ResetNeeded):
        env.step(NOTHING)
    minecraft_engine.recover()
    observation, info = env.reset(seed=4)
    assert env.observation_space.contains(observation)
    assert "error" not in info
    _, _, terminated, truncated, info = env.step(NOTHING)
    assert (terminated, truncated, "error" in info) == (False, False, False)
    assert minecraft_engine.notes("seed") == [4, 4]


def test_the_random_observation_is_never_passed_on(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MineStudio 1.1.6 fails to draw it, so here its spaces are helped to."""
    spaces = import_minestudio("minestudio.simulator.minerl.herobraine.hero.spaces")
    seen = []
    module = import_minestudio("minestudio.simulator.callbacks")

    class Witness(module.MinecraftCallback):  # type: ignore[misc, name-defined]
        def after_step(self, sim: Any, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
            seen.append(info)
            return obs, reward, terminated, truncated, info

    env = make(callbacks=[Witness()])
    env.reset(seed=1)
    noise = {**{key: {} for key in ("inventory", "custom")}, "pov": np.zeros((360, 640, 3), np.uint8)}
    monkeypatch.setattr(spaces.Dict, "sample", lambda *_: noise)
    minecraft_engine.fail("crash")
    with pytest.raises(EnvironmentCrashed, match="MineStudio reports: ConnectionError: Connection timed out!"):
        env.step(NOTHING)
    assert seen == [], "callbacks would count it in"


def test_a_crash_inside_reset(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(callbacks=[("CommandsCallback", {"commands": ["/time set day", "/weather clear"]})])
    for fault, after in (("crash", 1), ("mission_end", OPENING + 2), ("crash", OPENING + 2)):
        minecraft_engine.fail(fault, after=after)
        with pytest.raises(EnvironmentCrashed):
            env.reset(seed=1)
        assert minecraft_engine.processes() == []
        with pytest.raises(ResetNeeded):
            env.unwrapped.step({"buttons": 0, "camera": 0})
    minecraft_engine.recover()
    env.reset(seed=1)
    env.step(NOTHING)


def test_a_fast_reset_after_the_game_has_gone(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(callbacks=[("FastResetCallback", {"biomes": ["plains"], "random_tp_range": 100})])
    env.reset(seed=1)
    script, *_, game = minecraft_engine.processes()
    os.kill(game.pid, signal.SIGKILL)
    script.wait(30)
    env.reset()
    env.step(NOTHING)
    assert len(minecraft_engine.notes("started")) == 2


def no_answer_to_unpack() -> None:
    struct.unpack("!dbb", None)  # type: ignore[arg-type]


def no_answer_to_decode() -> None:
    None.decode("utf-8")  # type: ignore[attr-defined]


def a_sentence() -> None:
    raise ConnectionError("It is gone.")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_answer_to_unpack, "the connection broke before the answer was through"),
        (no_answer_to_decode, "the connection broke before the answer was through"),
        (a_sentence, "ConnectionError: It is gone"),
    ],
)
def test_what_minestudio_reports(fault: Callable[[], None], said: str) -> None:
    with pytest.raises(MINESTUDIO_S_FAULTS) as caught:
        fault()
    assert _first_cause(caught.value, None) == said


def test_the_reason_is_the_newest_one(make: Any, minecraft_engine: MinecraftEngine) -> None:
    """Inside an `except` an error carries the one that is being handled, which is not what happened to the game."""
    env = make()
    minecraft_engine.fail("no_start")
    try:
        minecraft_engine.notes("step")[0]
    except IndexError:
        with pytest.raises(EnvironmentCrashed) as caught:
            env.reset(seed=1)
    assert "list index" not in str(caught.value)


def test_a_game_that_does_not_start(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make()
    minecraft_engine.fail("no_start")
    with pytest.raises(
        EnvironmentCrashed, match=r"process ended while it came up.*EOFError.*Java heap space.*finished unexpectedly"
    ):
        env.reset(seed=1)
    assert minecraft_engine.processes() == []
    minecraft_engine.recover()
    env.reset(seed=1)


def test_a_game_that_says_nothing_as_it_starts(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(launch_timeout=0.5)
    minecraft_engine.fail("silent_start")
    with pytest.raises(EnvironmentCrashed, match=r"the game was not ready after 0.5 s \(launch_timeout\)"):
        env.reset(seed=1)
    assert minecraft_engine.processes() == []


def test_a_callback_s_own_error_is_not_a_crash(make: Any, minecraft_engine: MinecraftEngine) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")

    class Broken(module.MinecraftCallback):  # type: ignore[misc, name-defined]
        def after_reset(self, sim: Any, obs: Any, info: Any) -> Any:
            return {}[1]

    env = make(callbacks=[Broken()])
    with pytest.raises(KeyError):
        env.reset(seed=1)
    assert minecraft_engine.processes() == [], "an environment that could not be reset leaves no game behind"


@pytest.mark.parametrize("when", ["in a step", "in a reset"])
def test_closing_after_a_crash_raises_nothing(
    make: Any, minecraft_engine: MinecraftEngine, tmp_path: Path, when: str
) -> None:
    """As a worker process does, whose first error has been reported already."""
    env = make(callbacks=[("RecordCallback", {"record_path": str(tmp_path), "frame_type": "obs"})])
    if when == "in a step":
        env.reset(seed=1)
    minecraft_engine.fail("crash")
    with pytest.raises(EnvironmentCrashed):
        env.step(NOTHING) if when == "in a step" else env.reset(seed=1)
    env.close()
    env.close()
    assert minecraft_engine.processes() == []


def test_a_dropped_environment_leaves_no_process(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = MinecraftEnv(num_empty_frames=2)
    env.reset(seed=1)
    assert len(minecraft_engine.processes()) == 2
    del env
    gc.collect()
    assert minecraft_engine.processes() == []


def test_a_fork_s_copy_leaves_the_game_alone(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = MinecraftEnv(num_empty_frames=2)
    env.reset(seed=1)
    engine, instance = env._engine, env._engine._instance
    with monkeypatch.context() as fork:
        fork.setattr(os, "getpid", lambda: -1)
        del env
        gc.collect()
    assert engine._instance is None, "the finalizer has run"
    assert len(minecraft_engine.processes()) == 2
    engine._instance = instance
    engine.stop()
    assert minecraft_engine.processes() == []


LEAVES_IT_OPEN = """
import sys
import vpt_gym.envs
from vpt_gym.envs.minecraft.env import MinecraftEnv
env = MinecraftEnv(num_empty_frames=2)
env.reset(seed=1)
sys.stderr.write("the program ends")
"""


def test_a_program_that_ends_without_close_is_told_nothing(minecraft_engine: MinecraftEngine, tmp_path: Path) -> None:
    status, said = minecraft_engine.run([sys.executable, "-c", LEAVES_IT_OPEN], cwd=ROOT)
    assert status == 0
    assert said.endswith("the program ends"), said
    assert minecraft_engine.processes() == []


def test_closing_twice_leaves_no_process(make: Any, minecraft_engine: MinecraftEngine) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")

    class Counts(module.MinecraftCallback):  # type: ignore[misc, name-defined]
        closed = 0

        def before_close(self, sim: Any) -> None:
            self.closed += 1

    env = make(callbacks=[Counts()])
    assert minecraft_engine.processes() == [], "the game starts with the first reset"
    env.reset(seed=1)
    assert len(minecraft_engine.processes()) == 2, "MineStudio's launch script, and what it launched"
    env.close()
    assert minecraft_engine.processes() == []
    env.close()
    assert env.unwrapped.callbacks[0].closed == 1


def test_a_game_that_goes_by_itself_is_closed_too(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MineStudio's own waiting, in which a game takes its leave."""
    monkeypatch.setattr(import_minestudio("minestudio.simulator.minerl.env.malmo"), "time", time)
    env = make()
    env.reset(seed=1)
    env.close()
    assert minecraft_engine.processes() == []
