"""Small checkpoints in every form that VPT's come in, and the one way in which these tests expect a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vpt_gym.config import VPTConfig
from vpt_gym.errors import WeightsError
from vpt_gym.weights import ResolvedSource, load_checkpoint, table
from vpt_gym.weights.saving import policy_options as published_kwargs

SMALL = VPTConfig(hidden_size=32, heads=2, impala_width=1, blocks=2, memory=8, dense_size=16, mlp_ratio=2)
"""A network of a megabyte, with a value of its own in every field, so that no two can be taken for one another."""


def network(config: VPTConfig = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of the network, by VPT's name, all random."""
    generator = torch.Generator().manual_seed(seed)
    return {spec.vpt_name: torch.randn(spec.shape, generator=generator) for spec in table(config)}


def heads(config: VPTConfig = SMALL, *, auxiliary: bool = True) -> dict[str, torch.Tensor]:
    """The tensors around the network, as OpenAI's `.weights` have them; MineStudio's have no auxiliary head."""
    hidden = config.hidden_size
    tensors = {
        "pi_head.buttons.linear_layer.weight": torch.zeros(8641, hidden),
        "pi_head.buttons.linear_layer.bias": torch.zeros(8641),
        "pi_head.camera.linear_layer.weight": torch.zeros(121, hidden),
        "pi_head.camera.linear_layer.bias": torch.zeros(121),
    }
    for head in ("value_head", "aux_value_head") if auxiliary else ("value_head",):
        tensors[f"{head}.linear.weight"] = torch.zeros(1, hidden)
        tensors[f"{head}.linear.bias"] = torch.zeros(1)
        tensors[f"{head}.normalizer.running_mean"] = torch.zeros(1)
        tensors[f"{head}.normalizer.running_mean_sq"] = torch.zeros(1)
        tensors[f"{head}.normalizer.debiasing_term"] = torch.zeros(())
    return tensors


def policy_kwargs(config: VPTConfig = SMALL) -> dict[str, Any]:
    """The arguments of MinecraftPolicy as OpenAI's `.model` and MineStudio's `config.json` give them."""
    return {
        "active_reward_monitors": {"env_reward": 1},
        **published_kwargs(config),
        # The published pair is 256 and 128: only their difference is the memory.
        "attention_memory_size": config.memory + 128,
        "timesteps": 128,
    }


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor] | None = None) -> str:
    """Write the small network with its heads, or these tensors; return the path as a source."""
    path.parent.mkdir(exist_ok=True)
    save_file(network() | heads(auxiliary=False) if tensors is None else tensors, path)
    return str(path)


def write_weights(path: Path, tensors: dict[str, Any] | None = None) -> str:
    """Write what OpenAI's `.weights` are: torch.save of a flat dict, five tensors of which no module uses."""
    torch.save(network() | heads() if tensors is None else tensors, path)
    return str(path)


def model_content(config: VPTConfig = SMALL) -> dict[str, Any]:
    """What OpenAI's `.model` files pickle."""
    return {"model": {"args": {"net": {"args": policy_kwargs(config)}, "pi_head_opts": {"temperature": 2.0}}}}


def refusal(source: str | ResolvedSource, *fragments: str) -> str:
    """Expect loading to fail with one line that holds all fragments."""
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(source)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message
