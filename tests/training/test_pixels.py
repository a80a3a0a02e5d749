"""Networks on the frame of the moment, trained with the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.pixel_env import ENV_ID
from vpt_gym.encoders import load_encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.training import EvaluationConfig, TrainingConfig
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.environments import latent_envs
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.train import train


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"env_id": ENV_ID, "steps": 64, "n_envs": 2, "eval_episodes": 2, "video": "none"}
    return TrainingConfig(**{**values, "hyperparameters": {"n_steps": 32, "batch_size": 32}, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "frames:40", "pixels": "cnn"},
        {"encoder": "frames:40", "pixels": "impala"},
        {"encoder": "reset:random:mini", "pixels": "cnn", "env_kwargs": {"as_dict": True}, "keep": ("compass",)},
    ],
    ids=["cnn", "impala", "beside a latent"],
)
def test_convolutions_are_trained_and_play_again(changes: dict[str, Any], tmp_path: Path) -> None:
    run = config(**changes)
    assert run.resolved["learning_rate"] == 3e-4
    folder = RunFolder(tmp_path / "run")
    train(run, folder.path)
    scaled = set(json.loads(folder.scaling.read_text())["observations"])
    assert scaled == {"latent", *run.keep}  # and not the picture
    encoder = load_encoder(run.encoder)
    latents = latent_envs(run, encoder, 1)
    try:
        venv = load_statistics(run, folder, latents, trust=False)
        trained = load_model(run, folder.model, venv, encoder).policy.state_dict()
        from vpt_gym.training.algorithms import build_model

        fresh = build_model(run, venv, encoder).policy.state_dict()
        frames = [name for name in trained if "features_extractor.extractors.image" in name]
        assert frames
        assert all(not torch.equal(trained[name], fresh[name]) for name in frames if name.endswith("weight"))
    finally:
        latents.close()
    assert len(evaluate(EvaluationConfig(folder.path, episodes=2, video="none")).score.returns) == 2


def test_another_learning_rate_is_the_users(tmp_path: Path) -> None:
    assert (
        config(encoder="frames:40", pixels="cnn", hyperparameters={"learning_rate": 0.5}).resolved["learning_rate"]
        == 0.5
    )
    assert config(encoder="random:mini").resolved["learning_rate"] == 1e-3


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="pixels must be one of none, cnn, impala"):
        config(encoder="frames:40", pixels="vit")
    with pytest.raises(VPTGymError, match="leave it out of --keep"):
        train(
            config(encoder="frames:40", pixels="cnn", env_kwargs={"as_dict": True}, keep=("image",)), tmp_path / "run"
        )
    with pytest.raises(VPTGymError, match="leave --pixels out"):
        train(config(encoder="random:tiny", pixels="cnn", algo="KLPPO"), tmp_path / "other")
