from __future__ import annotations

from typing import Any

import pytest

from tests.training.pixel_env import ENV_ID
from vpt_gym import providers
from vpt_gym.errors import VPTGymError
from vpt_gym.providers import Provider, qualified_id
from vpt_gym.training import TrainingConfig
from vpt_gym.training.environments import check_env


def config(env_id: str = ENV_ID, **changes: Any) -> TrainingConfig:
    return TrainingConfig(env_id=env_id, encoder="random:tiny", **changes)


def test_the_natural_speed_of_an_environment() -> None:
    assert check_env(config(env_kwargs={"frame_skip": 4})) == 20 / 4
    assert check_env(config()) == 20


def test_vizdoom_ids_carry_their_module() -> None:
    pytest.importorskip("vizdoom")
    assert qualified_id("VizdoomBasic-v1") == "vizdoom.gymnasium_wrapper:VizdoomBasic-v1"
    assert qualified_id("vizdoom.gymnasium_wrapper:VizdoomBasic-v1") == "vizdoom.gymnasium_wrapper:VizdoomBasic-v1"
    assert qualified_id("CartPole-v1") == "CartPole-v1"
    assert qualified_id(ENV_ID) == ENV_ID


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Provider("absent_package.gymnasium_wrapper", "pip install 'vpt-gym[vizdoom]'", "_none")
    monkeypatch.setitem(providers._providers, "Vizdoom", absent)
    with pytest.raises(
        VPTGymError, match=r"absent_package, which is not installed; run: pip install 'vpt-gym\[vizdoom\]'"
    ):
        check_env(config("VizdoomBasic-v1"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config("Nowhere-v0"), "no environment 'Nowhere-v0'.*module:Nowhere-v0"),
        (config("not an id"), "not an id cannot be made"),
        (config("absent_module:Light-v0"), "needs a Python module that is not installed: .*absent_module"),
        (config(env_kwargs={"frame_skp": 4}), "cannot be made with frame_skp=4: .*frame_skp"),
        (config("CartPole-v1"), "CartPole-v1: .* use a pixel environment"),
        (config(image_key="pixels"), "image_key='pixels'"),
        (config(env_kwargs={"as_dict": True}, keep=("map",)), "map"),
        (config(algo="TD3"), "TD3 cannot be built for .*Box.*Discrete"),
        (config(algo="MaskablePPO"), "MaskablePPO wants a mask of actions at every step"),
        (config(algo="PPO", hyperparameters={"clip_range": "wide"}), "PPO cannot be built for .*wide"),
        (config(algo="sac"), "SAC acts in Box, but .* is Discrete; use --algo ppo or a2c or dqn"),
        (config(algo="dqn", env_kwargs={"continuous": True}), "DQN acts in Discrete, .* use --algo ppo or a2c or sac"),
    ],
)
def test_mistakes_end_in_one_sentence(config: TrainingConfig, message: str) -> None:
    with pytest.raises(VPTGymError, match=message):
        check_env(config)
