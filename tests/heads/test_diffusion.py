"""DiffusionPolicy: the diffusion is Karras's and diffusers', actions come back, and chunks are played in pieces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.diffusion import installed
from vpt_gym.errors import ObservationError, OptionError, WeightsError
from vpt_gym.heads import DiffusionPolicy
from vpt_gym.heads.diffusion.actions import ActionCode, facts_of_space, space_of_facts
from vpt_gym.heads.diffusion.karras import Karras
from vpt_gym.latents import latent_box

SIZE = 6
SMALL: dict[str, Any] = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
SPACES = {
    "box": gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 5])),
    "discrete": gym.spaces.Discrete(4, start=-1),
    "parts": gym.spaces.MultiDiscrete([3, 5]),
    "buttons": gym.spaces.MultiBinary(4),
}
ALONE = gym.spaces.Dict({"latent": latent_box(SIZE)})
BOTH = gym.spaces.Dict({"latent": latent_box(SIZE), "goal": latent_box(3)})


def _policy(space: str = "box", observed: Any = None, **options: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    given = {"horizon": 4, "replan": 2, **SMALL, **options}
    return DiffusionPolicy(observed or latent_box(SIZE * given.get("stack", 1)), SPACES[space], **given).eval()


def test_sampling_equals_the_scheduler_of_diffusers() -> None:
    diffusers, _ = installed()
    karras = Karras()
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.001, sigma_max=80.0, sigma_data=0.5, sigma_schedule="exponential", prediction_type="epsilon"
    )
    scheduler.set_timesteps(10)
    assert torch.allclose(scheduler.sigmas, karras.schedule(), rtol=1e-5)

    def network(noisy: torch.Tensor, noise_b: torch.Tensor) -> torch.Tensor:
        return torch.tanh(noisy * 2 + noise_b.view(-1, 1, 1))

    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    x = noise * 80.0
    for step in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, step), step.expand(3)), step, x).prev_sample
    assert (karras.sample(network, noise) - x).abs().max() < 1e-4


def test_a_network_that_is_right_has_no_loss_and_finds_the_data() -> None:
    karras = Karras()
    clean = torch.tensor([0.3, -0.8]).view(1, 1, 2).expand(5, 1, 2)

    def right(scaled: torch.Tensor, noise_b: torch.Tensor) -> torch.Tensor:
        sigma = (noise_b * 4).exp()
        skip, out, into, _ = (each.view(-1, 1, 1) for each in karras.scales(sigma))
        return (clean - skip * scaled / into) / out

    sigma = karras.draw(5, torch.Generator().manual_seed(0))
    assert karras.loss(right, clean, sigma, torch.randn(5, 1, 2)).max() < 1e-4
    assert (karras.sample(right, torch.randn(5, 1, 2)) - clean).abs().max() < 1e-4


def test_sigmas_are_log_logistic_within_their_range() -> None:
    sigma = Karras().draw(20_000, torch.Generator().manual_seed(0))
    assert sigma.min() >= 0.001
    assert sigma.max() <= 80
    # The quartiles of the density: log(0.5) -+ 0.5 log 3.
    for share, wanted in ((0.25, -0.5 * math.log(3)), (0.5, 0.0), (0.75, 0.5 * math.log(3))):
        assert abs(float(sigma.log().quantile(share)) - math.log(0.5) - wanted) < 0.05


@pytest.mark.parametrize("name", SPACES)
def test_actions_come_back(name: str) -> None:
    space = SPACES[name]
    space.seed(0)
    code = ActionCode(space)
    actions = np.stack([np.asarray(space.sample()) for _ in range(50)]).reshape(10, 5, *space.shape)
    codes = code.encode(torch.as_tensor(actions))
    assert codes.shape == (10, 5, code.size)
    assert codes.abs().max() <= 1
    noisy = codes + 0.4 * (torch.rand(codes.shape) - 0.5) * (name != "box")
    again = code.decode(noisy)
    assert again.dtype == space.dtype
    assert np.allclose(again, actions, atol=1e-6)
    assert space_of_facts(facts_of_space(space)) == space
    with pytest.raises(OptionError, match="outside the policy's"):
        code.check(np.full((1, *space.shape), 77), "data")


def test_box_actions_stay_in_the_data_s_range() -> None:
    code = ActionCode(SPACES["box"])
    code.fit(np.array([[-0.5, 2.0], [0.5, 2.0]]))
    assert code.encode(torch.tensor([0.5, 2.0])).tolist() == [1.0, 0.0]
    assert code.decode(torch.tensor([9.0, 1.0])).tolist() == [0.5, 2.0]


def test_whole_numbers_are_rounded() -> None:
    code = ActionCode(gym.spaces.Box(0, 10, (2,), np.int32))
    assert code.decode(torch.tensor([[0.6 / 5 - 1, 0.98], [0.4 / 5 - 1, -1.5]])).tolist() == [[1, 10], [0, 0]]


@pytest.mark.parametrize("name", SPACES)
def test_a_chunk_is_played_in_pieces(name: str) -> None:
    policy = _policy(name)
    latents = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)
    actions, state = policy.predict(latents, None, np.ones(3, bool))
    assert actions.shape == (3, *policy.action_space.shape)
    assert all(policy.action_space.contains(action) for action in actions)
    chunks = state[0].copy()
    then, later = policy.predict(-latents, state, np.array([False, True, False]))
    assert (then[[0, 2]] == chunks[[0, 2], 1]).all()
    assert (later[0][[0, 2]] == chunks[[0, 2]]).all()
    assert (state[0] == chunks).all()  # what was handed out is not written to
    assert later[1].tolist() == [2, 1, 2]
    _, last = policy.predict(latents, later, np.zeros(3, bool))
    assert last[1].tolist() == [1, 2, 1]


def test_a_seed_gives_the_same_actions() -> None:
    policy = _policy()
    latents = np.zeros((4, SIZE), np.float32)
    found = []
    for seed in (1, 1, 2):
        policy.set_random_seed(seed)
        found.append(policy.predict(latents)[0])
    assert (found[0] == found[1]).all()
    assert np.abs(found[0] - found[2]).max() > 1e-3
    one, two = (policy.predict(latents, deterministic=True)[0] for _ in range(2))
    assert (one == two).all()
    assert (one == one[:1]).all()


def test_stacks_goals_and_grids_are_seen() -> None:
    stacked = _policy(stack=3)
    latents = np.random.default_rng(0).normal(size=(1, 3 * SIZE)).astype(np.float32)
    latents[:, :SIZE] = 0
    before = stacked.predict(latents, deterministic=True)[0]
    with torch.no_grad():
        stacked.encoder.age[0] += 1  # of the latent that is none
    assert np.abs(stacked.predict(latents, deterministic=True)[0] - before).max() < 1e-6
    with torch.no_grad():
        stacked.encoder.age[1] += torch.randn(16)
    assert np.abs(stacked.predict(latents, deterministic=True)[0] - before).max() > 1e-6

    told = _policy(observed=BOTH)
    here = {"latent": latents[:, :SIZE] + 1, "goal": np.zeros((1, 3), np.float32)}
    there = {**here, "goal": np.ones((1, 3), np.float32)}
    one, two = (told.predict(each, deterministic=True)[0] for each in (here, there))
    assert np.abs(one - two).max() > 1e-6
    alone = {key: values[0] for key, values in here.items()}
    assert np.abs(told.predict(alone, deterministic=True)[0] - one[0]).max() < 1e-5

    gridded = _policy(observed=latent_box(2 * 2 * 2 * 3), grid=(2, 2, 2, 3))
    assert gridded.predict(np.ones(24, np.float32))[0].shape == (2,)


def test_the_order_of_a_grid_s_frames_is_seen() -> None:
    """By what reads the context as a set: the same frames in another order are not the same tokens in another order."""
    policy = _policy(observed=latent_box(24), grid=(2, 2, 2, 3))
    grids = torch.randn(1, 2, 12)
    with torch.no_grad():
        tokens, _ = policy.encoder(grids.flatten(1), None)
        others, _ = policy.encoder(grids.flip(1).flatten(1), None)
    moved = others.view(1, 2, -1, 16).flip(1).flatten(1, 2)
    assert (tokens - moved).abs().max() > 1e-3


@pytest.mark.parametrize("observed", [None, BOTH, ALONE], ids=["latent", "goal", "keyed"])
def test_it_is_saved_and_loaded(observed: Any, tmp_path: Path) -> None:
    policy = _policy("parts", observed)
    policy.latents = "f" * 64
    policy.save(tmp_path / "policy.safetensors")
    again = DiffusionPolicy.load(tmp_path / "policy.safetensors")
    assert again.latents == policy.latents
    assert again.observation_space == policy.observation_space
    observation: Any = np.ones((5, SIZE), np.float32)
    if observed is not None:
        observation = {key: np.ones((5, *space.shape), np.float32) for key, space in observed.items()}
    for each in (policy, again):
        each.set_random_seed(3)
    assert (policy.predict(observation)[0] == again.predict(observation)[0]).all()
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "policy.safetensors").read_bytes()[:500])
    for name in ("broken", "absent"):
        with pytest.raises(WeightsError, match=r"no policy that DiffusionPolicy\.save wrote"):
            DiffusionPolicy.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("observed", "space", "options"),
    [
        (gym.spaces.Discrete(3), SPACES["box"], {}),
        (gym.spaces.Dict({"latent": latent_box(3), "ammo": latent_box(1)}), SPACES["box"], {}),
        (latent_box(SIZE), gym.spaces.Text(3), {}),
        (latent_box(SIZE), SPACES["box"], {"replan": 5}),
        (latent_box(SIZE), SPACES["box"], {"heads": 3}),
        (latent_box(SIZE), SPACES["box"], {"stack": 4}),
    ],
)
def test_refused(observed: Any, space: Any, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="DiffusionPolicy"):
        DiffusionPolicy(observed, space, **{"horizon": 4, **SMALL, **options})


def test_another_observation_is_refused() -> None:
    with pytest.raises(ObservationError, match="numbers"):
        _policy().predict(np.zeros((2, SIZE + 1), np.float32))
    with pytest.raises(ObservationError, match="observes Dict"):
        _policy(observed=BOTH).predict(np.zeros((2, SIZE), np.float32))
    with pytest.raises(ObservationError, match="but a dict of latent came"):
        _policy(observed=BOTH).predict({"latent": np.zeros((2, SIZE), np.float32)})


def test_rows_that_do_not_belong_together_are_refused() -> None:
    policy = _policy()
    _, state = policy.predict(np.zeros((3, SIZE), np.float32))
    with pytest.raises(ObservationError, match="of 2 rows came, but the state is of 3"):
        policy.predict(np.zeros((2, SIZE), np.float32), state)
    with pytest.raises(ObservationError, match="of 2 rows came, but episode_start is of 3"):
        policy.predict(np.zeros((2, SIZE), np.float32), None, np.ones(3, bool))
