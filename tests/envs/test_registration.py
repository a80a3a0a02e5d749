"""How Gymnasium comes to know the environment, and what that costs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import vpt_gym.envs
from vpt_gym.errors import VPTGymError
from vpt_gym.providers import check_registered, make_folder, qualified_id

ROOT = Path(__file__).parents[2]


def test_an_import_registers_it_and_loads_nothing_heavy() -> None:
    code = 'import gymnasium, vpt_gym.envs; spec = gymnasium.spec("vpt_gym/Minecraft-v0")'
    report = "import json, sys; print(json.dumps([spec.entry_point, sorted(sys.modules)]))"
    command = [sys.executable, "-W", "error", "-c", f"{code}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    entry_point, modules = json.loads(done.stdout)
    assert entry_point == "vpt_gym.envs.minecraft.env:make_minecraft"
    assert not {"torch", "minestudio", "gym", "stable_baselines3", "vpt_gym.envs.minecraft.env"} & set(modules)


def test_importing_again_registers_nothing_twice() -> None:
    importlib.reload(vpt_gym.envs)  # Gymnasium would warn, and warnings are errors here
    assert "vpt_gym/Minecraft-v0" in gym.registry


def test_worker_processes_get_the_module_in_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("vpt_gym.envs.minecraft.engine.check_engine", lambda: asked.append(True))
    env_id = qualified_id("vpt_gym/Minecraft-v0")
    assert env_id == "vpt_gym.envs:vpt_gym/Minecraft-v0"
    assert asked == [True], "a missing engine is found out here, not in each worker"
    check_registered(env_id)
    make_folder(env_id)


def test_the_class_is_offered_lazily() -> None:
    assert vpt_gym.envs.MinecraftEnv.__name__ == "MinecraftEnv"
    with pytest.raises(AttributeError, match="no attribute 'NetherEnv'"):
        _ = vpt_gym.envs.NetherEnv  # type: ignore[attr-defined]


def test_missing_minestudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minestudio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(VPTGymError, match=r"vpt_gym/Minecraft-v0 needs the package minestudio.*\[minestudio\]"):
        gym.make("vpt_gym/Minecraft-v0")


def test_a_module_that_this_package_itself_lacks_is_no_matter_of_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vpt_gym.envs", None)
    with pytest.raises(ModuleNotFoundError):
        qualified_id("vpt_gym/Minecraft-v0")
