"""Games in processes of their own: a crash there is a sentence here, and the command line trains in them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vpt_gym
from tests.support.engine import MinecraftEngine
from vpt_gym.errors import EnvironmentCrashed


def test_a_crash_in_a_worker_is_a_truncated_episode(minecraft_engine: MinecraftEngine) -> None:
    venv = vpt_gym.sb3.make_latent_vec_env(
        "vpt_gym/Minecraft-v0",
        2,
        encoder="random:mini",
        env_kwargs={"num_empty_frames": 1},
        vec_env_kwargs={"start_method": "spawn"},  # a server that forks may be older than this engine's variables
    )
    try:
        venv.reset()
        minecraft_engine.fail("crash", after=3)  # a game that has just been reset has made fewer steps
        dones = np.zeros(2, np.bool_)
        while not dones.any():
            _, rewards, dones, infos = venv.step(np.zeros((2, 2), np.int64))
        assert dones.all()
        assert rewards.tolist() == [0.0, 0.0]
        assert all(info["fault"].startswith("EnvironmentCrashed: Minecraft") for info in infos)
        minecraft_engine.recover()
        assert not venv.step(np.zeros((2, 2), np.int64))[2].any()
    finally:
        venv.close()
    assert [process for process in minecraft_engine.processes() if "java" in " ".join(process.cmdline())] == []


def test_a_process_that_never_began_is_a_crash_too(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    malmo = importlib.import_module("minestudio.simulator.minerl.env.malmo")

    def no_process(*_: object, **__: object) -> None:
        raise OSError("no process can be started")

    with monkeypatch.context() as patch:
        patch.setattr(malmo.MinecraftInstance, "launch", no_process)
        with pytest.raises(EnvironmentCrashed, match="OSError: no process can be started"):
            env.reset(seed=0)
    env.reset(seed=0)


def test_the_command_line_trains_in_minecraft(minecraft_engine: MinecraftEngine, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vpt_gym.cli", "train", "vpt_gym/Minecraft-v0", "--encoder", "random:mini"]
    options = ["--n-envs", "1", "--steps", "16", "--eval-episodes", "1", "--run", str(tmp_path / "run")]
    settings = ["--env-arg", "num_empty_frames=1", "--env-arg", "max_episode_steps=8"]
    status, output = minecraft_engine.run([*command, *options, *settings], cwd=Path(__file__).parents[2])
    assert status == 0, output
    assert (tmp_path / "run" / "model.zip").exists()
    assert "UNTRAINED" in output
