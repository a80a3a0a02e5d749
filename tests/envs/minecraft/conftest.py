"""A stand-in for Minecraft's Java engine, under which MineStudio's real simulator runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest

import vpt_gym.envs  # noqa: F401 - registers the environment
from tests.support.engine import MinecraftEngine
from tests.support.engine import minecraft_engine as engine_in
from tests.support.minestudio import require_minestudio
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.envs.minecraft.env import MinecraftEnv

MINESTUDIO_S = (
    # How it starts its threads.
    "ignore:setDaemon\\(\\) is deprecated:DeprecationWarning",
    # The collector of orphaned games, which it starts with the first game and leaves running.
    "ignore:subprocess \\d+ is still running:ResourceWarning",
    # A socket that it opens to say goodbye to a game that is gone already.
    "ignore:unclosed <socket.socket:ResourceWarning",
)
"""Warnings that MineStudio causes, and nothing else in these tests can."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for one in MINESTUDIO_S:
                item.add_marker(pytest.mark.filterwarnings(one))


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinecraftEngine]:
    """One for all tests, as MineStudio looks up its folder once in a process. Checks that nothing is left behind."""
    require_minestudio()
    with pytest.MonkeyPatch.context() as patch, engine_in(tmp_path_factory.mktemp("minestudio") / "engine") as engine:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # importing it leaves files open
            import_minestudio("minestudio.simulator.entry")
            launcher = import_minestudio("minestudio.simulator.minerl.env.malmo")
            constants = import_minestudio("minestudio.simulator.minerl.herobraine.hero.mc")
        # MineStudio as it is, but quicker where it only takes time: each reset makes a space for each of 5,933 statistics,
        # and each game that is ended is waited for three seconds, gone or not. Worker processes do both in full.
        patch.setattr(constants, "ALL_STAT_KEYS", constants.ALL_STAT_KEYS[::100])
        patch.setattr(launcher, "time", SimpleNamespace(sleep=lambda _: None))
        yield engine
        engine.end_collector()
        assert engine.processes() == []


@pytest.fixture
def minecraft_engine(engine_folder: MinecraftEngine) -> Iterator[MinecraftEngine]:
    """The engine, with nothing noted and nothing going wrong."""
    engine_folder.forget()
    logging.getLogger("minestudio").setLevel(logging.CRITICAL)  # it reports the crashes that tests make
    yield engine_folder
    engine_folder.recover()


@pytest.fixture
def make(minecraft_engine: MinecraftEngine) -> Iterator[Any]:
    """`gymnasium.make("vpt_gym/Minecraft-v0", ...)`, closed after the test, with few empty frames."""
    made: list[gym.Env[Any, Any]] = []

    def make_one(**options: Any) -> gym.Env[Any, Any]:
        env = gym.make("vpt_gym/Minecraft-v0", **{"num_empty_frames": 2, **options})
        made.append(env)
        return env

    yield make_one
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def shared_game(engine_folder: MinecraftEngine) -> Iterator[MinecraftEnv]:
    game = MinecraftEnv(num_empty_frames=2, render_mode="rgb_array")
    yield game
    game.close()


@pytest.fixture
def game(shared_game: MinecraftEnv, minecraft_engine: MinecraftEngine) -> MinecraftEnv:
    """One MinecraftEnv (Dict actions) for the tests of a module: starting a game takes longer than most of them."""
    return shared_game


@pytest.fixture
def playing(game: MinecraftEnv) -> MinecraftEnv:
    """The same, somewhere in an episode; a reset of the real simulator takes a third of a second."""
    if not game._running:
        game.reset(seed=1)
    return game
