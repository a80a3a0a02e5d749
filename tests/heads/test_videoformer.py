"""VideoFormer: frames that are none are not seen, one frame alone is the 2-D form, and it learns from grids."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from vpt_gym.errors import VPTGymError
from vpt_gym.heads import VideoFormer
from vpt_gym.latents import latent_box

GRID = (4, 2, 2, 6)
SIZE = 4 * 2 * 2 * 6
SMALL: dict[str, Any] = {"queries": 3, "width": 16, "heads": 2, "head_width": 5}


def _former(seed: int = 0, **options: Any) -> VideoFormer:
    torch.manual_seed(seed)
    return VideoFormer(latent_box(SIZE), GRID, **{**SMALL, **options}).eval()


@settings(max_examples=20, deadline=None)
@given(there=st.lists(st.booleans(), min_size=4, max_size=4).filter(any), order=st.permutations(range(4)))
def test_frames_that_are_none_may_be_anything_in_any_order(there: list[bool], order: list[int]) -> None:
    former = _former()
    torch.manual_seed(1)
    grids, flags = torch.randn(1, 4, 4, 6), torch.tensor([there])
    moved = [place for place in order if not there[place]]
    changed = grids.clone()
    changed[:, [place for place in range(4) if not there[place]]] = 9 * grids[:, moved]
    tokens, others = former.look(grids, flags), former.look(changed, flags)
    assert tokens.shape == (1, 4, 3, 16)
    assert (tokens - others).abs().max() == 0
    assert (tokens[~flags] == 0).all()
    # Those that there are, are seen: the order matters to the others.
    if sum(there) > 1:
        first = there.index(True)
        changed[:, first] *= -1
        assert (
            former.look(changed, flags)[:, first + 1 :][:, there[first + 1 :]]
            - tokens[:, first + 1 :][:, there[first + 1 :]]
        ).abs().max() > 0


def test_one_frame_equals_the_form_without_time() -> None:
    former, flat = _former(), _former(time=False)
    flat.load_state_dict({name: value for name, value in former.state_dict().items() if ".across." not in name})
    grids = torch.randn(5, 4, 4, 6)
    one, all_there = torch.zeros(5, 4, dtype=torch.bool), torch.ones(5, 4, dtype=torch.bool)
    one[:, 2] = True
    assert (former.look(grids, one)[:, 2] - flat.look(grids, all_there)[:, 2]).abs().max() < 1e-6
    assert (former.look(grids[:, :1], all_there[:, :1]) - flat.look(grids, all_there)[:, :1]).abs().max() < 1e-6
    assert (former.look(grids, all_there) - flat.look(grids, all_there)).abs().max() > 1e-3


def test_zeros_before_an_episode_are_no_frames() -> None:
    torch.manual_seed(0)
    stacked = VideoFormer(latent_box(2 * SIZE), GRID, **SMALL).eval()
    latents = torch.randn(2, 2 * SIZE)
    latents[0, :SIZE] = 0
    features = stacked(latents)
    assert features.shape == (2, stacked.features_dim) == (2, 48)
    with torch.no_grad():
        stacked.position[:4] += torch.randn(16)
    changed = (stacked(latents) - features).abs().amax(dim=1)
    assert changed[0] == 0
    assert changed[1] > 1e-4
    assert stacked(torch.zeros(1, 2 * SIZE)).isfinite().all()


def test_it_has_the_papers_sizes() -> None:
    former = VideoFormer(latent_box(SIZE), GRID)
    assert len(former.blocks) == 3
    assert former.blocks[0].within.query.out_features == 8 * 64


class Corner(gym.Env[Any, Any]):
    """One cell of the last imagined frame is marked, and the action must name it."""

    observation_space = latent_box(SIZE)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        grid = self.np_random.normal(size=GRID).astype("float32")
        self.answer = int(grid[3, 0, 0, 0] > 0)
        grid[3, 0, 0, 0] *= 5
        return grid.reshape(-1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], float(action == self.answer), True, False, {}


def test_ppo_trains_through_it_and_saves_it(tmp_path: Any) -> None:
    kwargs = {
        "features_extractor_class": VideoFormer,
        "features_extractor_kwargs": {"grid": GRID, **SMALL, "depth": 1},
    }
    model = PPO("MlpPolicy", Corner(), n_steps=16, batch_size=16, policy_kwargs=kwargs, device="cpu", seed=0)
    before = model.policy.features_extractor.queries.detach().clone()
    model.learn(32)
    assert not model.policy.features_extractor.queries.equal(before)
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", device="cpu")
    observations = torch.randn(3, SIZE)
    assert again.policy.predict_values(observations).equal(model.policy.predict_values(observations))


def test_what_stands_beside_the_latent_is_seen_too(tmp_path: Any) -> None:
    space = gym.spaces.Dict({"goal": latent_box(3), "latent": latent_box(SIZE)})
    torch.manual_seed(0)
    former = VideoFormer(space, GRID, **SMALL).eval()
    assert former.features_dim == 3 * 16 + 3
    latents, goals = torch.randn(5, SIZE), torch.randn(5, 3)
    features = former({"goal": goals, "latent": latents})
    assert features[:, :-3].equal(_former()(latents))
    assert features[:, -3:].equal(goals)

    kwargs = {"features_extractor_class": VideoFormer, "features_extractor_kwargs": {"grid": GRID, **SMALL, "depth": 1}}
    told = gym.wrappers.TransformObservation(
        Corner(), lambda latent: {"latent": latent, "goal": latent[:3]}, observation_space=space
    )
    model = PPO("MultiInputPolicy", told, n_steps=16, batch_size=16, policy_kwargs=kwargs, device="cpu", seed=0)
    model.learn(16)
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", device="cpu")
    seen = {"goal": goals, "latent": latents}
    assert again.policy.predict_values(seen).equal(model.policy.predict_values(seen))


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (latent_box(SIZE + 1), {}),
        (gym.spaces.Discrete(3), {}),
        (gym.spaces.Dict({"goal": latent_box(SIZE)}), {}),
        (latent_box(SIZE), {"grid": (4, 2, 6)}),
        (latent_box(SIZE), {"depth": 0}),
    ],
)
def test_refused(space: Any, options: dict[str, Any]) -> None:
    with pytest.raises(VPTGymError, match="VideoFormer"):
        VideoFormer(space, **{"grid": GRID, **options})
