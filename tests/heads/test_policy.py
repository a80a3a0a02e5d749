"""The policy on small heads: what it computes, what it refuses, and that Stable-Baselines3 can do everything with it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from tests.heads.small import BUTTONS, CAMERA, LATENT, LatentEnv, small_heads, small_state
from vpt_gym.errors import VPTGymError
from vpt_gym.heads import PretrainedHeadPolicy, VPTHeads

Algorithm = type[PPO] | type[A2C]
LATENTS = torch.randn(50, LATENT, generator=torch.Generator().manual_seed(1))


def build(algorithm: Algorithm = PPO, env: Any = None, *, seed: int = 0, **policy_kwargs: Any) -> Any:
    options: dict[str, Any] = {"n_steps": 16}
    if algorithm is PPO:
        options |= {"batch_size": 16, "n_epochs": 2}
    policy_kwargs.setdefault("heads", small_heads())
    return algorithm(
        PretrainedHeadPolicy,
        LatentEnv() if env is None else env,
        policy_kwargs=policy_kwargs,
        seed=seed,
        device="cpu",
        learning_rate=1e-2,
        **options,
    )


def outputs(policy: PretrainedHeadPolicy) -> torch.Tensor:
    """Log-probabilities of every action, then the value: [50, BUTTONS + CAMERA + 1]."""
    with torch.no_grad():
        parts = [part.logits for part in policy.get_distribution(LATENTS).distribution]
        return torch.cat([*parts, policy.predict_values(LATENTS)], dim=1)


def expected(temperature: float = 2.0) -> torch.Tensor:
    """The same by the definition, one sum at a time, from the tensors as a checkpoint holds them."""
    state = {name: tensor.double() for name, tensor in small_state().items()}
    parts = []
    for part in ("buttons", "camera"):
        weight, bias = (state[f"pi_head.{part}.linear_layer.{kind}"] for kind in ("weight", "bias"))
        odds = ((LATENTS.double() @ weight.T + bias) / temperature).exp()
        parts.append((odds / odds.sum(dim=1, keepdim=True)).log())
    normalised = LATENTS.double() @ state["value_head.linear.weight"].T + state["value_head.linear.bias"]
    # Mean 0.6 / 0.4 = 1.5, mean of squares 2.8 / 0.4 = 7, so a variance of 4.75.
    return torch.cat([*parts, normalised * 4.75**0.5 + 1.5], dim=1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("adapters", [None, 5])
def test_untrained_it_is_the_heads(temperature: float, adapters: int | None) -> None:
    policy = build(heads=small_heads(temperature), adapters=adapters).policy
    torch.testing.assert_close(outputs(policy).double(), expected(temperature), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("debiasing", "mean_sq", "mean", "scale"),
    [(0.0, 0.0, 0.6 / 1e-5, 0.1), (0.4, 0.9, 1.5, 0.1), (0.4, 0.9 + 4e-3 + 1e-4, 1.5, 0.10124)],
)
def test_statistics_are_bounded_as_vpt_bounds_them(debiasing: float, mean_sq: float, mean: float, scale: float) -> None:
    state = small_state() | {
        "value_head.normalizer.debiasing_term": torch.tensor(debiasing),
        "value_head.normalizer.running_mean_sq": torch.tensor([mean_sq]),
    }
    net = build(heads=VPTHeads.from_state_dict(state)).policy.value_net
    assert float(net.mean) == pytest.approx(mean, rel=1e-5)
    assert float(net.scale) == pytest.approx(scale, rel=1e-3)


def test_adapters_are_the_identity_bit_for_bit_and_learn() -> None:
    plain, adapted = build(), build(adapters=5)
    assert torch.equal(outputs(plain.policy), outputs(adapted.policy))
    before = copy.deepcopy(adapted.policy.mlp_extractor.state_dict())
    adapted.learn(32)
    changed = [
        name for name, tensor in adapted.policy.mlp_extractor.state_dict().items() if not tensor.equal(before[name])
    ]
    assert changed == list(before)
    assert {name.partition(".")[0] for name in changed} == {"actor", "critic"}


@pytest.mark.parametrize("adapters", [None, 5])
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_save_load_predict_and_learn_on(algorithm: Algorithm, adapters: int | None, tmp_path: Path) -> None:
    model = build(algorithm, adapters=adapters)
    untrained = outputs(model.policy)
    model.learn(64)
    trained = outputs(model.policy)
    assert not torch.equal(trained, untrained)
    model.save(tmp_path / "model.zip")
    observation = LATENTS.numpy()

    loaded = algorithm.load(tmp_path / "model.zip", device="cpu")
    assert torch.equal(outputs(loaded.policy), trained)
    assert loaded.policy_kwargs["heads"].is_empty
    drawn = []
    for each in (model, loaded):
        torch.manual_seed(4)
        drawn.append(each.predict(observation)[0])
    assert np.array_equal(*drawn)
    best, _ = loaded.predict(observation, deterministic=True)
    parts = trained[:, :-1].split([BUTTONS, CAMERA], dim=1)
    assert np.array_equal(best, torch.stack([part.argmax(dim=1) for part in parts], dim=1).numpy())
    assert loaded.predict(observation[0], deterministic=True)[0].shape == (2,)

    # Both go on alike, parameters and optimiser, which a saved state that lacked anything could not.
    for each in (model, loaded):
        each.set_env(make_vec_env(LatentEnv, n_envs=1, seed=5))
        each.set_random_seed(6)
        each.learn(32)
    assert torch.equal(outputs(loaded.policy), outputs(model.policy))
    assert not torch.equal(outputs(loaded.policy), trained)

    loaded.save(tmp_path / "again.zip")
    assert torch.equal(outputs(algorithm.load(tmp_path / "again.zip", device="cpu").policy), outputs(loaded.policy))


def test_the_statistics_stand_still_and_are_saved(tmp_path: Path) -> None:
    model = build()
    model.learn(64)
    model.save(tmp_path / "model.zip")
    for each in (model, PPO.load(tmp_path / "model.zip", device="cpu")):
        net = each.policy.value_net
        assert float(net.mean) == pytest.approx(1.5)
        assert float(net.scale) == pytest.approx(4.75**0.5)
    names = [name for name, _ in model.policy.named_parameters()]
    assert names == ["action_net.weight", "action_net.bias", "value_net.weight", "value_net.bias"]


def test_training_leaves_the_heads_alone() -> None:
    heads = small_heads()
    build(heads=heads).learn(32)
    assert torch.equal(outputs(build(heads=heads).policy), outputs(build().policy))


def test_a_policy_by_itself_is_saved_and_loaded(tmp_path: Path) -> None:
    model = build(adapters=5)
    model.learn(32)
    model.policy.save(str(tmp_path / "policy.pth"))
    loaded = PretrainedHeadPolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    assert torch.equal(outputs(loaded), outputs(model.policy))


def test_parameters_can_be_taken_and_put() -> None:
    trained, fresh = build(), build()
    trained.learn(32)
    fresh.set_parameters(trained.get_parameters())
    assert torch.equal(outputs(fresh.policy), outputs(trained.policy))


def test_loading_takes_the_heads_that_were_saved_and_refuses_others(tmp_path: Path) -> None:
    build().save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu", policy_kwargs={"heads": small_heads()})
    assert not loaded.policy_kwargs["heads"].is_empty
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        PPO.load(tmp_path / "model.zip", device="cpu", policy_kwargs={"heads": small_heads(seed=1)})


def test_several_environments() -> None:
    model = build(env=make_vec_env(LatentEnv, n_envs=3, seed=0))
    model.learn(96)
    assert model.num_timesteps == 96


def test_saved_heads_are_there_once(tmp_path: Path) -> None:
    heads = small_heads(latent=64, buttons=4000)
    tensors = sum(heads.tensor(name).nbytes for name in small_state())
    build(env=LatentEnv(latent=64, nvec=(4000, CAMERA)), heads=heads).save(tmp_path / "model.zip")
    assert tensors < (tmp_path / "model.zip").stat().st_size < 1.1 * tensors


def test_heads_out_of_a_pickle_are_refused_until_a_state_is_there() -> None:
    model = build(heads=pickle.loads(pickle.dumps(small_heads())))
    assert all(parameter.isnan().all() for parameter in model.policy.parameters())
    match = r"no saved state was loaded into it: load a saved model, or take the heads from an encoder"
    with pytest.raises(VPTGymError, match=match):
        model.learn(16)
    for use in (model.policy.predict_values, model.policy.get_distribution, model.policy.forward):
        with pytest.raises(VPTGymError, match=match):
            use(LATENTS)
    model.policy.load_state_dict(build().policy.state_dict())
    assert torch.equal(outputs(model.policy), outputs(build().policy))


def test_half_a_state_is_none() -> None:
    policy = build(heads=pickle.loads(pickle.dumps(small_heads()))).policy
    state = build().policy.state_dict()
    policy.load_state_dict({name: tensor for name, tensor in state.items() if "bias" not in name}, strict=False)
    with pytest.raises(VPTGymError, match="no saved state was loaded into it"):
        policy.predict_values(LATENTS)


def test_a_model_that_diverged_is_loaded_as_it_is(tmp_path: Path) -> None:
    """Its NaN are training's doing: nothing is said about pickles."""
    model = build()
    torch.nn.init.constant_(model.policy.value_net.bias, torch.nan)
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    assert loaded.policy.predict_values(LATENTS).isnan().all()
    parts = [each.policy.get_distribution(LATENTS).distribution for each in (model, loaded)]
    assert torch.equal(parts[0][0].logits, parts[1][0].logits)


class Fixed(gym.Env[Any, Any]):
    """Only spaces: what is refused is refused before a step is taken."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise AssertionError("not reached")


BOX = gym.spaces.Box(-1, 1, (LATENT,), np.float32)
ACTIONS = gym.spaces.MultiDiscrete([BUTTONS, CAMERA])


@pytest.mark.parametrize(
    ("observation_space", "message"),
    [
        (
            gym.spaces.Box(-1, 1, (9,), np.float32),
            "read latents of 8 numbers, but the observation space is a Box of shape",
        ),
        (
            gym.spaces.Box(-1, 1, (LATENT, 1), np.float32),
            r"a Box of shape \(8, 1\): wrap the environment with the encoder",
        ),
        (gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), r"a Box of shape \((3, )?64, 64"),
        (gym.spaces.Discrete(8), r"is Discrete\(8\): wrap"),
        (gym.spaces.Dict({"image": BOX}), r"is Dict\("),
        (
            gym.spaces.Dict({"latent": BOX, "ammo": BOX}),
            r"is a Dict of ('ammo', 'latent'|'latent', 'ammo'): leave keep= out",
        ),
    ],
)
def test_observations_that_do_not_fit(observation_space: gym.Space[Any], message: str) -> None:
    with pytest.raises(VPTGymError, match=message):
        build(env=Fixed(observation_space, ACTIONS))


def test_stacked_latents_do_not_fit() -> None:
    with pytest.raises(VPTGymError, match=r"a Box of shape \(16,\)"):
        build(env=VecFrameStack(make_vec_env(LatentEnv, n_envs=1), 2))


@pytest.mark.parametrize(
    "action_space",
    [
        gym.spaces.MultiDiscrete([CAMERA, BUTTONS]),
        gym.spaces.MultiDiscrete([BUTTONS, CAMERA, 2]),
        gym.spaces.MultiDiscrete([BUTTONS + 1, CAMERA]),
        gym.spaces.MultiDiscrete([BUTTONS, CAMERA], start=[1, 1]),
        gym.spaces.MultiDiscrete([[BUTTONS, CAMERA]]),
        gym.spaces.Discrete(BUTTONS),
        gym.spaces.Box(-1, 1, (2,), np.float32),
        gym.spaces.MultiBinary(2),
    ],
)
def test_actions_that_do_not_fit(action_space: gym.Space[Any]) -> None:
    message = "the heads have 6 buttons and 3 camera, in this order, but the action space is "
    with pytest.raises(VPTGymError, match=message) as caught:
        build(env=Fixed(BOX, action_space))
    assert "use vpt_gym/Minecraft-v0 or FlattenDictAction" in str(caught.value)


@pytest.mark.parametrize(("heads", "came"), [(None, "none came"), ("owner/name", "a str came"), ({}, "a dict came")])
def test_what_is_no_heads(heads: Any, came: str) -> None:
    with pytest.raises(VPTGymError, match=f"needs VPT's heads, but {came}: write PPO") as caught:
        build(heads=heads)
    assert '"heads": encoder.heads' in str(caught.value)


@pytest.mark.parametrize("adapters", [0, -1, 1.5, True, "64"])
def test_adapters_that_are_no_width(adapters: Any) -> None:
    with pytest.raises(VPTGymError, match="adapters must be a positive whole number"):
        build(adapters=adapters)


def test_a_misspelt_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="adapter"):
        build(adapter=5)
