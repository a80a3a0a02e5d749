from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main

SMALL = (
    *("--encoder", "random:mini", "--layer", "cnn", "--n-envs", "2"),
    *("--n-steps", "32", "--batch-size", "32", "--eval-episodes", "2", "--env-arg", "frame_skip=2"),
)


def test_train_then_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", ENV_ID, *SMALL, "--steps", "128", "--run", str(run), "--video", "mp4"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == f"{ENV_ID}: PPO on latents, 128 steps"
    assert "UNTRAINED" in out
    assert "frame_skip=2" in out
    assert "training     128 of 128 steps" in out
    assert sum("mean return over 2 episodes" in line for line in lines) == 3
    assert lines[-1] == f"Everything is in {run}. Next: vpt-gym eval {run}"
    assert json.loads((run / "config.json").read_text())["training"]["env_kwargs"] == {"frame_skip": 2}
    for name in ("model.zip", "learning_curve.png", "episode.mp4", "episodes.csv", "progress.csv", "tensorboard"):
        assert (run / name).exists(), name

    assert main(["eval", str(run), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "mean return over 2 episodes, sampled actions" in out
    assert "measured when the run was trained" in out
    assert (run / "eval.gif").is_file()

    assert main(["eval", str(run), "--encoder", "random:mini?seed=1", "--video", "none"]) == 1
    assert "is not the one that" in capsys.readouterr().err

    assert main(["train", ENV_ID, *SMALL, "--run", str(run)]) == 1
    assert "name a new one with --run" in capsys.readouterr().err


def start_training(run: Path) -> subprocess.Popen[str]:
    """`vpt-gym train` in a session of its own, in the middle of a long training."""
    command = [sys.executable, "-m", "vpt_gym.cli", "train", ENV_ID, *SMALL, "--steps", "1000000", "--run", str(run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    # The random policy's line is the last one before training; the workers are all running then.
    for line in process.stdout:
        if line.startswith("  random"):
            break
    return process


def check_saved(process: subprocess.Popen[str], run: Path) -> None:
    """The command ends by itself, says so, and leaves a whole run folder."""
    # The pipes close when the last process that inherited them is gone: a worker or an engine left behind times out.
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "vpt-gym: interrupted after" in out.splitlines()[-1]
    config = json.loads((run / "config.json").read_text())
    assert config["status"] == "interrupted"
    assert PPO.load(run / "model.zip", device="cpu").num_timesteps == config["steps"]
    assert (run / "learning_curve.png").is_file()
    assert not [path for path in run.iterdir() if "partial" in path.name]


@pytest.mark.skipif(os.name != "posix", reason="a terminal's Ctrl-C is a signal to a process group")
def test_ctrl_c_in_a_terminal_saves_the_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_training(run)
    os.killpg(process.pid, signal.SIGINT)
    check_saved(process, run)


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM to a process group")
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the command", "to its group, as timeout does"])
def test_sigterm_saves_the_model_and_leaves_no_process(send: Callable[[int, int], None], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_training(run)
    send(process.pid, signal.SIGTERM)
    check_saved(process, run)
