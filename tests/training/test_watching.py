"""What a training tells while it goes, and what it keeps of a frame that breaks it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.network import random_net
from tests.training.test_train import Listener, config
from vpt_gym.config import VPTConfig
from vpt_gym.errors import NonFiniteLatent, VPTGymError
from vpt_gym.training import FleetConfig, Score
from vpt_gym.training.train import resume, train
from vpt_gym.weights import save_checkpoint

TINY = VPTConfig(hidden_size=32, heads=2, impala_width=1, blocks=1, memory=8, dense_size=16, mlp_ratio=2, frame_size=32)
QUICK: dict[str, Any] = {"eval_episodes": 1, "video": "none"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_checkpoint(random_net(TINY), None, tmp_path / "weights")
    return tmp_path / "weights"


def test_wandb_is_told_what_tensorboard_is(weights: Path, logged: list[dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(encoder=str(weights), steps=128, **QUICK), run, wandb=True)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    scalars = {name: {event.step: event.value for event in board.Scalars(name)} for name in board.Tags()["scalars"]}
    told = {
        name: {line["time/total_timesteps"]: np.float32(line[name]) for line in logged if name in line}
        for name in {name for line in logged for name in line} - {"time/total_timesteps"}
    }
    assert told == scalars
    assert {"rollout/ep_rew_mean", "rollout/faults", "time/encoder_share", "train/loss"} <= set(told)
    # A longer run goes on under its id.
    resume(run, 192, wandb=True)
    assert logged[-1]["time/total_timesteps"] == 192
    ids = [path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")]
    assert len(set(ids)) == 1


def test_wandb_that_is_missing_is_a_sentence(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(VPTGymError, match=r"needs the package wandb, .* pip install 'vpt-gym\[wandb\]'"):
        train(config(encoder=str(weights), **QUICK), tmp_path / "run", wandb=True)
    assert not (tmp_path / "run").exists()


def test_wandb_that_takes_no_run_is_a_sentence(
    weights: Path, wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where wandb login keeps the key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(VPTGymError, match=r"takes no run \(No API key .*log in with: wandb login; or set WANDB_MODE"):
        train(config(encoder=str(weights), **QUICK), tmp_path / "run", wandb=True)


class Crashing(Listener):
    """Lets the environment crash once, when the training begins."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def baseline(self, score: Score) -> None:
        super().baseline(score)
        self.place.touch()


def test_faults_are_counted_in_the_log_and_in_the_progress(weights: Path, tmp_path: Path) -> None:
    crash, run = tmp_path / "crash", tmp_path / "run"
    listener = Crashing(crash)
    asked = config(encoder=str(weights), steps=64, n_envs=1, env_kwargs={"crash": str(crash)}, **QUICK)
    train(asked, run, listener, FleetConfig(fleet="processes"))
    with (run / "progress.csv").open() as file:
        assert [float(row["rollout/faults"]) for row in csv.DictReader(file)] == [1.0, 1.0]
    assert [value for kind, value in listener.calls if kind == "progress"][-1].faults == 1


def test_the_frames_of_a_latent_that_is_not_finite_are_kept(tmp_path: Path) -> None:
    net = random_net(TINY)
    with torch.no_grad():
        for weights in (each for each in net.cnn.parameters() if each.dim() > 1):
            weights.div_(weights.abs().max()).mul_(3e38)  # finite, and their sums are not
    save_checkpoint(net, None, tmp_path / "weights")
    run = tmp_path / "run"
    with pytest.raises(NonFiniteLatent, match=r"are NaN or infinite .* Its frames are in .*non_finite\.npz") as caught:
        train(config(encoder=str(tmp_path / "weights"), **QUICK), run)
    with np.load(run / "non_finite.npz") as kept:
        frames = kept["frames"]
    assert (frames.shape, frames.dtype) == ((len(caught.value.rows), 32, 32, 3), np.uint8)
    assert {40, 220} >= set(np.unique(frames[:, :, (0, -1)]).tolist())  # the game's picture, not noise
    assert json.loads((run / "config.json").read_text())["status"] == "failed"
