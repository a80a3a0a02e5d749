"""The value head's gradient is that of VPT's own loss, in normalised units, so that it does not drown the policy's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from torch.nn.functional import linear, mse_loss

from tests.heads.small import LATENT, LatentEnv, small_state
from vpt_gym.heads import PretrainedHeadPolicy, VPTHeads
from vpt_gym.heads.modules import ValueHead

LATENTS = torch.randn(40, LATENT, generator=torch.Generator().manual_seed(2))
RETURNS = 30 * torch.randn(40, 1, generator=torch.Generator().manual_seed(3))


def heads_of_scale(scale: float, mean: float = 0.0) -> VPTHeads:
    state = small_state() | {
        "value_head.normalizer.running_mean": torch.tensor([mean]),
        "value_head.normalizer.running_mean_sq": torch.tensor([mean**2 + scale**2]),
        "value_head.normalizer.debiasing_term": torch.tensor(1.0),
    }
    return VPTHeads.from_state_dict(state)


def gradients(values: torch.Tensor, targets: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(mse_loss(values, targets), inputs)


@pytest.mark.parametrize(("scale", "mean"), [(50.0, 0.0), (50.0, 7.0), (1.5, 0.3)])
@pytest.mark.parametrize("copied", [False, True])
def test_above_one_the_gradient_is_that_of_the_normalised_loss(scale: float, mean: float, copied: bool) -> None:
    """At the weights, and at the latents, where an adapter stands."""
    head = ValueHead(heads_of_scale(scale, mean))
    if copied:
        head = copy.deepcopy(head)
    latents = LATENTS.clone().requires_grad_()
    values = head(latents)
    normalised = linear(latents, head.weight, head.bias)
    assert torch.equal(values, normalised * head.scale + head.mean), "the values stay exact"
    assert float(head.scale) == pytest.approx(scale, rel=1e-4)
    ours = gradients(values, RETURNS, head.weight, head.bias, latents)
    vpts = gradients(normalised, (RETURNS - head.mean) / head.scale, head.weight, head.bias, latents)
    for mine, theirs in zip(ours, vpts, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1])
def test_up_to_one_the_gradient_is_the_values_own(scale: float) -> None:
    head = ValueHead(heads_of_scale(scale))
    head.scale.fill_(scale)  # exactly, whatever the root was rounded to
    plain = linear(LATENTS, head.weight, head.bias) * head.scale + head.mean
    ours = gradients(head(LATENTS), RETURNS, head.weight, head.bias)
    for mine, theirs in zip(ours, gradients(plain, RETURNS, head.weight, head.bias), strict=True):
        assert torch.equal(mine, theirs)


def pressed(model: Any) -> float:
    """How probable the rewarded button is, on average."""
    with torch.no_grad():
        return float(model.policy.get_distribution(LATENTS).distribution[0].probs[:, 0].mean())


def test_a_policy_learns_at_a_large_scale() -> None:
    """By plain descent, where a gradient that is clipped away is no step; Adam would make up for some of it, in time."""
    reached = []
    for hooked in (True, False):
        options = {"heads": heads_of_scale(50.0), "optimizer_class": torch.optim.SGD}
        model = PPO(
            PretrainedHeadPolicy,
            LatentEnv(),
            policy_kwargs=options,
            seed=0,
            device="cpu",
            n_steps=256,
            batch_size=64,
            n_epochs=4,
            learning_rate=1.0,
            gamma=0.0,
        )
        if not hooked:
            net: Any = model.policy.value_net
            net.forward = lambda latents, net=net: linear(latents, net.weight, net.bias) * net.scale + net.mean
        assert pressed(model) < 0.25
        model.learn(256 * 10)
        reached.append(pressed(model))
    print(
        f"probability of the rewarded button: {reached[0]:.3f}, and {reached[1]:.3f} where the gradient is not divided"
    )
    assert reached[0] > 0.8
    assert reached[1] < 0.3
