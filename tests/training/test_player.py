"""A run's policy as a player: what it does is what the run's own evaluation would, frame by frame."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tests.offline.material import require_offline
from tests.training.pixel_env import ENV_ID, LENGTH
from vpt_gym import VPTLatentObservation
from vpt_gym.cli.main import main
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.training import TrainingConfig
from vpt_gym.training.player import SavedPlayer
from vpt_gym.training.train import train

SMALL = {"n_envs": 1, "steps": 32, "eval_episodes": 1, "video": "none"}


def trained(folder: Path, **options: object) -> Path:
    hyperparameters = {"n_steps": 32, "batch_size": 32}
    config = TrainingConfig(ENV_ID, "random:mini", **{**SMALL, "hyperparameters": hyperparameters, **options})  # type: ignore[arg-type]
    return train(config, folder).folder


@pytest.mark.parametrize("keep", [(), ("compass",)])
def test_it_acts_as_the_model_does_on_the_wrappers_latents(tmp_path: Path, keep: tuple[str, ...]) -> None:
    run = trained(tmp_path / "run", keep=keep, env_kwargs={"as_dict": bool(keep)}, image_key="image" if keep else None)
    player = SavedPlayer(run)
    assert player.env_kwargs() == {"as_dict": bool(keep)}
    env = gym.make(ENV_ID, **player.env_kwargs())
    looked = VPTLatentObservation(gym.make(ENV_ID, **player.env_kwargs()), "random:mini", keep=keep)
    player(0)(env, env.reset(seed=0)[0])
    model, scaling, _ = player._head  # type: ignore[misc]
    # So sure of itself that another latent would mean another action.
    model.policy.action_net.weight.data.mul_(1000)
    for episode in range(3):
        play, observation, ours = player(7), env.reset(seed=episode)[0], []
        for _ in range(LENGTH):
            ours.append(int(play(env, observation)))
            observation = env.step(ours[-1])[0]
        model.set_random_seed(7)
        latent, theirs = looked.reset(seed=episode)[0], []
        for _ in range(LENGTH):
            batch = {key: value[None] for key, value in latent.items()} if keep else latent[None]
            theirs.append(int(model.predict(scaling.normalize_obs(batch))[0][0]))
            latent = looked.step(theirs[-1])[0]
        assert ours == theirs
    model.policy.action_net.weight.data.zero_()
    # The same seed draws the same actions, whatever was played before.
    actions = []
    for _ in range(2):
        play, observation = player(7), env.reset(seed=0)[0]
        actions.append([int(play(env, observation)) for _ in range(20)])
    assert actions[0] == actions[1]
    assert len(set(actions[0])) == 2
    player.close()


def test_the_command_records_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_offline()
    run = trained(tmp_path / "run")
    arguments = ["record", ENV_ID, "--policy", str(run), "--frames", "20", "--frame-size", "32", "--out"]
    for name in ("once", "again"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    assert "3 episodes in" in capsys.readouterr().out
    for one in sorted((tmp_path / "once").glob("*.npz")):
        first, second = np.load(one), np.load(tmp_path / "again" / one.name)
        assert all(np.array_equal(first[key], second[key]) for key in first.files)
        assert np.array_equal(first["actions"], first["played"])
    assert main(["record", ENV_ID, "--policy", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    player = SavedPlayer(run)
    other = gym.make(ENV_ID, continuous=True)
    with pytest.raises(VPTGymError, match="does not fit"):
        player(0)(other, other.reset(seed=0)[0])
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(VPTGymError, match="give the weights of the training"):
        SavedPlayer(run)
    (run / "config.json").write_text(text.replace('"pixels": "none"', '"pixels": "impala"'))
    with pytest.raises(OptionError, match="trained a network on pixels beside"):
        SavedPlayer(run)
