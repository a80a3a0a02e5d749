"""Algorithms by the names of their classes: each is trained, saved, and played again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.pixel_env import ENV_ID
from vpt_gym.training import EvaluationConfig, TrainingConfig
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.train import train

SMALL = {"encoder": "random:mini", "n_envs": 1, "steps": 64, "eval_episodes": 1, "video": "none"}
ROLLOUT = {"n_steps": 32, "batch_size": 32}
BUFFER = {"learning_starts": 16, "buffer_size": 100, "batch_size": 16}


@pytest.mark.parametrize(
    ("algo", "hyperparameters", "env_kwargs"),
    [
        ("klppo", ROLLOUT, {"nvec": [8641, 121]}),
        ("TRPO", ROLLOUT, {}),
        ("CrossQ", BUFFER, {"continuous": True}),
    ],
)
def test_a_run_is_whole(algo: str, hyperparameters: dict[str, Any], env_kwargs: dict[str, Any], tmp_path: Path) -> None:
    if algo != "klppo":
        pytest.importorskip("sb3_contrib")
    config = TrainingConfig(**SMALL, env_id=ENV_ID, algo=algo, hyperparameters=hyperparameters, env_kwargs=env_kwargs)
    result = train(config, tmp_path / "run")
    assert result.steps == config.planned_steps == 64
    recorded = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert recorded["status"] == "finished"
    assert recorded["training"]["algo"].lower() == algo.lower()
    again = evaluate(EvaluationConfig(tmp_path / "run", episodes=1, video="none"))
    assert again.score.returns
    assert again.training.resolved == config.resolved
