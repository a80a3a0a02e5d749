"""A goal in words is part of a run: recorded, and told again when the run is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.diffusion import save_clip
from tests.training.test_train import config
from vpt_gym.encoders.text import embed_goal
from vpt_gym.training import EvaluationConfig, TrainingConfig
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.train import train
from vpt_gym.wrappers.sb3 import VecVPTLatent


def test_a_run_is_evaluated_with_its_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = str(save_clip(tmp_path / "clip"))
    seen = []
    step_wait = VecVPTLatent.step_wait

    def noted(venv: VecVPTLatent) -> object:
        result = step_wait(venv)
        seen.append(result[0]["goal"])
        return result

    train(config(goal="run", clip=clip, steps=64, eval_episodes=1, video="none"), tmp_path / "run")
    recorded = RunFolder.open(tmp_path / "run").read_config()["training"]
    assert (recorded["goal"], recorded["clip"]) == ("run", clip)
    monkeypatch.setattr(VecVPTLatent, "step_wait", noted)
    evaluate(EvaluationConfig(tmp_path / "run", episodes=1, video="none"))
    assert seen
    for goals in seen:
        np.testing.assert_array_equal(goals, np.tile(embed_goal("run", clip), (len(goals), 1)))


def test_runs_from_before_there_were_goals() -> None:
    asked = config()
    older = {name: value for name, value in asked.to_dict().items() if name not in ("goal", "goal_key", "clip")}
    assert TrainingConfig.from_dict(json.loads(json.dumps(older))).to_dict() == asked.to_dict()
