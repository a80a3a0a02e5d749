"""What the simulator runs on is not there: a sentence with the command to run, and never a question."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from tests.support.engine import MinecraftEngine
from vpt_gym.envs.minecraft.engine import LOG_FOLDER, _log_folder
from vpt_gym.errors import VPTGymError

ROOT = Path(__file__).parents[2]
MAKE = "import gymnasium; gymnasium.make('vpt_gym.envs:vpt_gym/Minecraft-v0')"


def test_a_missing_engine_is_an_error_and_no_question(minecraft_engine: MinecraftEngine, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAKE],
        env={**os.environ, "MINESTUDIO_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,  # a question would end in EOFError
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"vpt_gym.errors.VPTGymError: Minecraft's engine is not in {tmp_path}")
    assert "python -m minestudio.simulator.entry -y" in last
    assert "(Y/N)" not in done.stdout


def test_a_folder_that_is_not_there_is_not_made(
    minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINESTUDIO_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(VPTGymError, match=r"MINESTUDIO_DIR names .*nowhere, which is no folder"):
        gym.make("vpt_gym/Minecraft-v0")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("program", "command"), [("java", "conda install -c conda-forge openjdk=8"), ("xvfb-run", "apt-get install xvfb")]
)
def test_missing_programs(
    minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch, program: str, command: str
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else which(name))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(VPTGymError, match=f"no `{program}` is on the PATH.*{re.escape(command)}"):
        gym.make("vpt_gym/Minecraft-v0")
    assert minecraft_engine.notes("started") == []


def test_two_launches_at_once_share_the_log_s_folder(
    minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MineStudio looks for it when a game has come up, when another launch may have ended."""
    monkeypatch.delenv(LOG_FOLDER, raising=False)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(_log_folder())
        second.enter_context(_log_folder())
        first.close()
        assert os.environ[LOG_FOLDER] == str(minecraft_engine.folder)
        second.close()
        assert LOG_FOLDER not in os.environ
    monkeypatch.setenv(LOG_FOLDER, "mine")
    with _log_folder():
        assert os.environ[LOG_FOLDER] == "mine"
    assert os.environ[LOG_FOLDER] == "mine"
