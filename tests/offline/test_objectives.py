"""Losses and gradients equal those of MineStudio's own classes, and its classes take our policy."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch

from tests.support.minestudio import import_minestudio_models
from tests.support.network import random_net
from vpt_gym.config import VPTConfig
from vpt_gym.nn import Memory
from vpt_gym.offline.pretraining.heads import GaussianHead
from vpt_gym.offline.pretraining.objectives import BehaviorClone, Frame, KLDivergence, make_objectives
from vpt_gym.offline.pretraining.policy import TrunkPolicy

CONFIG = VPTConfig(
    hidden_size=32, heads=2, impala_width=1, blocks=2, memory=8, dense_size=16, mlp_ratio=2, frame_size=16
)
PARTS = {"buttons": 8641, "camera": 121}
ROWS, LENGTH = 3, 8

pytestmark = pytest.mark.minestudio


@pytest.fixture
def policy() -> TrunkPolicy:
    torch.manual_seed(0)
    made = TrunkPolicy(random_net(CONFIG).requires_grad_(requires_grad=True), PARTS, None)
    for layer in made.pi_head.layers.values():
        torch.nn.init.normal_(layer.weight, std=0.3)
    return made


@pytest.fixture
def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    camera = torch.randint(0, 121, (ROWS, LENGTH, 1), generator=generator)
    camera[:, ::3] = 60
    return {
        "frames": torch.randint(0, 256, (ROWS, LENGTH, 16, 16, 3), generator=generator, dtype=torch.uint8),
        "agent_action": {"buttons": torch.randint(0, 8641, (ROWS, LENGTH, 1), generator=generator), "camera": camera},
        "mask": (torch.rand(ROWS, LENGTH, generator=generator) > 0.3).float(),
    }


def run(policy: TrunkPolicy, batch: dict[str, Any]) -> dict[str, Any]:
    memory = Memory.empty(CONFIG, ROWS, blocks=2, device=torch.device("cpu"), dtype=torch.float32)
    latents, _ = policy(batch["frames"], torch.zeros(ROWS, LENGTH, dtype=torch.bool), memory)
    return latents


def gradients(policy: TrunkPolicy, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def test_cloning_equals_minestudio(policy: TrunkPolicy, batch: dict[str, Any]) -> None:
    """Its callback, with its own action head on our latents: loss, parts, entropy and gradients, 1e-5 relative."""
    import_minestudio_models()
    callbacks = importlib.import_module("minestudio.offline.mine_callbacks")
    head_module = importlib.import_module("minestudio.utils.vpt_lib.action_head")
    head = head_module.DictActionHead(
        {name: head_module.CategoricalActionHead(CONFIG.hidden_size, (1,), count) for name, count in PARTS.items()}
    )
    for name in PARTS:
        head[name].linear_layer.weight = policy.pi_head.layers[f"_{name}"].weight
        head[name].linear_layer.bias = policy.pi_head.layers[f"_{name}"].bias

    class Theirs:
        pi_head = head

    latents = run(policy, batch)
    ours = BehaviorClone(weight=0.7)(batch, 0, "train", latents, policy)
    our_gradients = gradients(policy, ours["loss"])
    latents = run(policy, batch)
    theirs = callbacks.BehaviorCloneCallback(weight=0.7)(
        batch, 0, "train", {"pi_logits": head(latents["final"])}, Theirs()
    )
    their_gradients = gradients(policy, theirs["loss"])
    for name in ("loss", "camera_loss", "button_loss", "entropy"):
        assert float(ours[name].detach()) == pytest.approx(float(theirs[name].detach()), rel=1e-5)
    assert float(ours["button_loss"].detach()) > 1
    assert set(our_gradients) == set(their_gradients)
    for name, gradient in our_gradients.items():
        assert float((gradient - their_gradients[name]).norm()) <= 1e-5 * float(their_gradients[name].norm()) + 1e-9, (
            name
        )


def test_minestudios_callback_takes_our_policy(policy: TrunkPolicy, batch: dict[str, Any]) -> None:
    import_minestudio_models()
    callbacks = importlib.import_module("minestudio.offline.mine_callbacks")
    latents = run(policy, batch)
    theirs = callbacks.BehaviorCloneCallback()(batch, 0, "train", latents, policy)
    ours = BehaviorClone()(batch, 0, "train", latents, policy)
    assert float(theirs["loss"].detach()) == pytest.approx(float(ours["loss"].detach()), rel=1e-6)


def test_divergence_equals_minestudio() -> None:
    import_minestudio_models()
    callbacks = importlib.import_module("minestudio.offline.mine_callbacks")
    torch.manual_seed(2)
    latents = {
        name: {"mu": torch.randn(5, 7, requires_grad=True), "log_var": torch.randn(5, 7, requires_grad=True)}
        for name in ("posterior_dist", "prior_dist")
    }
    leaves = [tensor for part in latents.values() for tensor in part.values()]
    found = []
    for objective in (KLDivergence(0.3), callbacks.KLDivergenceCallback(0.3)):
        result = objective({}, 0, "train", latents, None)
        found.append((result["loss"].detach(), *torch.autograd.grad(result["loss"], leaves)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_continuous_actions_equal_minestudio() -> None:
    """Log-density and entropy of MineStudio's Gaussian head, and their gradients, with the same parameters: 1e-5."""
    import_minestudio_models()
    theirs_module = importlib.import_module("minestudio.utils.vpt_lib.action_head")
    torch.manual_seed(0)
    ours, theirs = GaussianHead(32, 3), theirs_module.DiagGaussianActionHead(32, 3)
    torch.nn.init.normal_(ours.log_std)
    torch.nn.init.normal_(ours.layers["_"].weight)
    theirs.linear_layer.load_state_dict(ours.layers["_"].state_dict())
    theirs.log_std.data.copy_(ours.log_std)
    latents, actions = torch.randn(2, 4, 32), torch.randn(2, 4, 3)
    logits, params = ours(latents), theirs(latents)
    torch.testing.assert_close(logits[""], params)
    density, expected = ours.logprob({"": actions}, logits), theirs.logprob(actions, params)
    torch.testing.assert_close(density, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.entropy(logits), theirs.entropy(params), rtol=1e-5, atol=1e-5)
    density.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.log_std.grad, theirs.log_std.grad, rtol=1e-5, atol=1e-5)


def test_a_coarse_picture_is_learned_from_the_latent(policy: TrunkPolicy, batch: dict[str, Any]) -> None:
    objective = make_objectives({"frame": 1.0}, policy, batch)["frame"]
    assert isinstance(objective, Frame)
    batch["frames"] = torch.zeros(ROWS, LENGTH, 32, 32, 3, dtype=torch.uint8)
    batch["frames"][..., :2, :2, 1] = torch.tensor([[0, 100], [200, 100]], dtype=torch.uint8)
    wanted_bt = objective.wanted(batch).view(ROWS, LENGTH, 3, 16, 16)
    assert (wanted_bt[:, :, 1, 0, 0] == 100).all()  # the mean of its cell
    assert float(wanted_bt.sum()) == 100 * ROWS * LENGTH

    # What it asks for is all that is missing: a decoder that gives the picture has no loss left.
    batch["frames"].fill_(51)
    latents = {"final": torch.ones(ROWS, LENGTH, CONFIG.hidden_size)}
    torch.nn.init.zeros_(objective.decoder.weight)
    torch.nn.init.constant_(objective.decoder.bias, math.log(0.2 / 0.8))
    found = objective(batch, 0, "training", latents, policy)
    assert float(found["loss"].detach()) == pytest.approx(0, abs=1e-4)
    assert float(found["frame_error"]) == pytest.approx(0, abs=1e-6)
    torch.nn.init.zeros_(objective.decoder.bias)
    assert float(objective(batch, 0, "training", latents, policy)["loss"].detach()) > 1
