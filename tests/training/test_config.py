from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.training import ALGORITHMS, TrainingConfig


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"env_id": "Light-v0", "encoder": "random:tiny", **changes})  # type: ignore[arg-type]


def test_a_config_survives_json() -> None:
    before = config(
        env_kwargs={"frame_skip": 4, "name": "x", "deep": {"a": [1, None]}},
        algo="dqn",
        keep=("compass",),
        encoder_options={"layer": "cnn", "sizes": [1, 2]},
        net_arch=(64, 32),
        hyperparameters={"gamma": 0.9},
    )
    after = TrainingConfig.from_dict(json.loads(json.dumps(before.to_dict())))
    assert after.resolved == before.resolved
    assert {**vars(after), "hyperparameters": 0} == {**vars(before), "hyperparameters": 0}


def test_the_json_spells_out_every_hyperparameter() -> None:
    for algo, algorithm in ALGORITHMS.items():
        written = config(algo=algo, hyperparameters={"gamma": 0.5}).to_dict()["hyperparameters"]
        assert written == {**algorithm.defaults, "gamma": 0.5}


@pytest.mark.parametrize("change", [{"extra": 1}, {"seed": None}])
def test_a_config_of_another_version_is_refused(change: dict[str, object]) -> None:
    values = {**config().to_dict(), **change}
    if change == {"seed": None}:
        del values["seed"]
    with pytest.raises(VPTGymError, match=r"differs in: (extra|seed)"):
        TrainingConfig.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "nothing"}, "ppo, a2c, dqn, sac, or the class of an algorithm, not 'nothing'; there are .*TD3"),
        ({"video": "avi"}, "gif, mp4, none"),
        ({"steps": 0}, "steps must be a whole number of 1 or more"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, not -1"),
        ({"seed": 4294967296}, "seed must be from 0 to"),
        ({"net_arch": (64, 0)}, "net_arch"),
        ({"steps": 1.5}, "steps must be a whole number of 1 or more, such as 24000 or 1e5, not 1.5"),
        ({"n_envs": True}, "n_envs must be"),
        ({"env_kwargs": {"map": object()}}, "env_kwargs must be an object of JSON values"),
        ({"hyperparameters": {"gamma": 1.5}}, "gamma must be a number from 0 to 1, not 1.5"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "learning_rate must be a number above 0"),
        ({"algo": "dqn", "hyperparameters": {"n_epochs": 3}}, "DQN has no n_epochs; it takes learning_rate"),
        ({"n_envs": 3, "hyperparameters": {"n_steps": 10, "batch_size": 7}}, "= 30 is not a multiple of 7"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config(**changes)


@pytest.mark.parametrize("name", sorted(config().to_dict()))
@pytest.mark.parametrize("value", [[None], 1.5, {"n_steps": "x"}])
def test_a_field_of_the_wrong_type_is_named(name: str, value: object) -> None:
    if name in {"env_kwargs", "encoder_options"} and isinstance(value, dict):
        return
    named = "n_steps" if name == "hyperparameters" and isinstance(value, dict) else name
    with pytest.raises(OptionError, match=f"^{named} must be"):
        TrainingConfig.from_dict({**config().to_dict(), name: value})


def test_steps_are_rounded_up_to_whole_rollouts() -> None:
    assert config(steps=100, n_envs=2, hyperparameters={"n_steps": 32}).planned_steps == 128
    assert config(steps=128, n_envs=2, hyperparameters={"n_steps": 32}).planned_steps == 128
    assert config(steps=101, n_envs=2, algo="sac").planned_steps == 102
    # Stable-Baselines3's DQN takes four steps in each environment between two updates.
    assert config(steps=100, n_envs=8, algo="dqn").planned_steps == 128
    assert config(steps=100, n_envs=1, algo="QRDQN").planned_steps == 100
    assert config(steps=101, n_envs=1, algo="DDPG").planned_steps == 101


def test_any_algorithm_goes_by_the_name_of_its_class() -> None:
    assert config(algo="PPO") == config(algo="ppo")
    assert config(algo="td3").algo == "TD3"
    assert config(algo="KLPPO", hyperparameters={"kl_coef": 0.1}).resolved["kl_coef"] == 0.1
    assert config(hyperparameters={"clip_range": 0.1}).to_dict()["hyperparameters"]["clip_range"] == 0.1
    with pytest.raises(OptionError, match=r"KLPPO has no kl_coeff; it takes .*kl_coef, "):
        config(algo="KLPPO", hyperparameters={"kl_coeff": 0.1})


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, vpt_gym.training, vpt_gym.cli.main\n"
        "print([m for m in ('stable_baselines3', 'matplotlib', 'vizdoom', 'tensorboard', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
