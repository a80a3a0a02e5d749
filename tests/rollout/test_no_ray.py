"""Where Ray is not there, a sentence says so; none of these tests starts it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.rollout.faulty_env import FaultyEnv
from vpt_gym.errors import VPTGymError
from vpt_gym.rollout import RayVecEnv


@pytest.fixture
def silent() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VPTGymError, match=r"RayVecEnv needs the package ray, .* pip install 'vpt-gym\[fleet\]'"):
        RayVecEnv([FaultyEnv])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer(scheme: str, silent: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        VPTGymError, match=rf"No Ray cluster answers at '{scheme}{silent}' \(ConnectionRefused.*ray start"
    ):
        RayVecEnv([FaultyEnv], f"{scheme}{silent}")


def test_an_address_that_is_none() -> None:
    pytest.importorskip("ray")
    with pytest.raises(VPTGymError, match=r"No Ray cluster answers at 'nonsense' \(ValueError: .*[Aa]ddress"):
        RayVecEnv([FaultyEnv], "nonsense")


def test_a_ray_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "folder"))
    with pytest.raises(
        VPTGymError, match=r"Ray does not start on this machine \(\w+Error: .*environments into processes"
    ):
        RayVecEnv([FaultyEnv])
