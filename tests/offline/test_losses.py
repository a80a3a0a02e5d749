"""The losses are MineStudio's, to 1e-5, on one batch."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from tests.heads.small import small_state
from tests.support.minestudio import require_minestudio
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.heads import PretrainedHeadPolicy, VPTHeads
from vpt_gym.offline import keyboard
from vpt_gym.offline.losses import cloning_loss, counted_parts, divergence, log_likelihood
from vpt_gym.offline.students import Student

BATCH, TIME, LATENT = 3, 7, 16


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Latents, VPT's actions among which the camera stands still now and then, and a padding mask."""
    rng = np.random.default_rng(0)
    camera = np.where(rng.random((BATCH, TIME)) < 0.4, keyboard.NULL_CAMERA, rng.integers(0, 121, (BATCH, TIME)))
    buttons = rng.integers(0, keyboard.BUTTONS, (BATCH, TIME))
    mask = np.arange(TIME) < np.array([[TIME], [4], [1]])
    assert (camera == keyboard.NULL_CAMERA).any()
    return {
        "latents": torch.from_numpy(rng.normal(size=(BATCH, TIME, LATENT)).astype(np.float32)),
        "actions": torch.from_numpy(np.stack([buttons, camera], axis=2)),
        "mask": torch.from_numpy(mask.astype(np.float32)),
    }


def _heads() -> VPTHeads:
    return VPTHeads.from_state_dict(small_state(LATENT, keyboard.BUTTONS, keyboard.CAMERAS, scale=2.0), 2.0)


def _callbacks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MineStudio's losses, without the trainer beside them, which takes half a minute to import."""
    require_minestudio()
    models = import_minestudio("minestudio.models")
    package = types.ModuleType("minestudio.offline")
    package.__path__ = [str(Path(str(models.__file__)).parents[1] / "offline")]
    monkeypatch.setitem(sys.modules, "minestudio.offline", package)
    return import_minestudio("minestudio.offline.mine_callbacks")


@pytest.mark.parametrize("padded", [True, False])
def test_behaviour_cloning_is_minestudios(
    batch: dict[str, torch.Tensor], padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = _callbacks(monkeypatch)
    heads = import_minestudio("minestudio.utils.vpt_lib.action_head")
    spaces = {
        "buttons": gym.spaces.MultiDiscrete([keyboard.BUTTONS]),
        "camera": gym.spaces.MultiDiscrete([keyboard.CAMERAS]),
    }
    theirs = heads.make_action_head(gym.spaces.Dict(spaces), LATENT, temperature=2.0)
    state = small_state(LATENT, keyboard.BUTTONS, keyboard.CAMERAS, scale=2.0)
    theirs.load_state_dict({key.removeprefix("pi_head."): value for key, value in state.items() if "pi_head" in key})
    asked: dict[str, Any] = {
        "agent_action": {"buttons": batch["actions"][..., :1], "camera": batch["actions"][..., 1:]},
        **({"mask": batch["mask"]} if padded else {}),
    }
    policy = types.SimpleNamespace(pi_head=theirs)
    with torch.no_grad():
        wanted = callbacks.BehaviorCloneCallback(weight=1.0)(
            asked, 0, "train", {"pi_logits": theirs(batch["latents"])}, policy
        )
        space = keyboard.action_space()
        box = gym.spaces.Box(-9, 9, (LATENT,), np.float32)
        student = Student(PretrainedHeadPolicy(box, space, lambda _: 1e-3, heads=_heads()))
        flat = batch["actions"].reshape(-1, 2)
        likelihood = log_likelihood(student.parts(batch["latents"].reshape(-1, LATENT)), flat)
        counted = counted_parts(space, flat, 2)
        ours = cloning_loss(
            likelihood.view(BATCH, TIME, 2), counted.view(BATCH, TIME, 2), batch["mask"] if padded else None
        )
    torch.testing.assert_close(ours[0], wanted["button_loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1], wanted["camera_loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.sum(), wanted["loss"], atol=1e-5, rtol=1e-5)
    assert float(ours[1]) > 0


def test_the_divergence_from_a_teacher_is_minestudios(monkeypatch: pytest.MonkeyPatch) -> None:
    """MineStudio's is of normal distributions, which policies of real-valued actions have."""
    callbacks = _callbacks(monkeypatch)
    box, space = gym.spaces.Box(-9, 9, (4,), np.float32), gym.spaces.Box(-1, 1, (3,), np.float32)
    torch.manual_seed(0)
    teacher, student = (ActorCriticPolicy(box, space, lambda _: 1e-3, log_std_init=init) for init in (0.3, -0.2))
    latents = torch.randn(6, 4)
    with torch.no_grad():
        parts = [Student(policy).parts(latents) for policy in (teacher, student)]
        (q,), (p,) = parts
        wanted = callbacks.KLDivergenceCallback(weight=0.5)(
            {},
            0,
            "train",
            {
                "posterior_dist": {"mu": q.mean, "log_var": 2 * q.stddev.log()},
                "prior_dist": {"mu": p.mean, "log_var": 2 * p.stddev.log()},
            },
            None,
        )
        ours = divergence(*parts).mean()
    assert float(ours) > 0.1
    torch.testing.assert_close(ours, wanted["kl_div"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(0.5 * ours, wanted["loss"], atol=1e-5, rtol=1e-5)


def test_the_divergence_of_buttons_and_camera_is_minestudios(batch: dict[str, torch.Tensor]) -> None:
    require_minestudio()
    head = import_minestudio("minestudio.utils.vpt_lib.action_head").CategoricalActionHead
    generator = torch.Generator().manual_seed(1)
    logits = [3 * torch.randn(5, 2, size, generator=generator) for size in (40, 9)]
    ours = divergence(
        *([torch.distributions.Categorical(logits=each[:, place]) for each in logits] for place in (0, 1))
    )
    wanted = torch.zeros(5)
    for each in logits:
        theirs = each.log_softmax(dim=-1)
        wanted += head.kl_divergence(head(4, (1,), 4), theirs[:, 0][:, None], theirs[:, 1][:, None]).reshape(5)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
