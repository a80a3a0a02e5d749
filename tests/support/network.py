"""vpt_gym's encoder around given parameters: MineStudio's, or random ones that leave no parameter at its default."""

from __future__ import annotations

import torch
from torch import nn

from vpt_gym.config import PRESETS, VPTConfig
from vpt_gym.encoders.loading import LoadedWeights
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn import VPTNet, accelerate
from vpt_gym.weights import LoadReport, table

__all__ = ["encoder_like", "encoder_of", "random_net"]

SMALL = VPTConfig(hidden_size=64, heads=2, impala_width=1, dense_size=32)
"""As deep as every VPT network, with the memory of 128 frames, and quick enough for a thousand steps."""


def encoder_of(net: VPTNet, *, fast: bool = False, **options: str) -> VPTEncoder:
    """An encoder of `net` as it is defined; or, with `fast`, as `load_encoder` would make it, which takes `net` apart."""
    report = LoadReport(files=(), taken=(), aside=(), parameters=0, untrained=True)
    defaults = {"device": "cpu", "precision": "float32", "layer": "final"}
    options = {**defaults, **options}
    precision = options["precision"]
    backend = accelerate(net, precision, options.get("backend", "auto")) if fast else "torch's own operators"
    return VPTEncoder(LoadedWeights(net, "0" * 64, report, precision, backend), "random:test", options)


def encoder_like(policy: nn.Module, config: VPTConfig | str, *, fast: bool = False, **options: str) -> VPTEncoder:
    """An encoder with the parameters of MineStudio's `MinecraftPolicy`, by the table of checkpoint names."""
    config = PRESETS[config] if isinstance(config, str) else config
    theirs = policy.state_dict()
    tensors = {row.parameter: theirs[row.vpt_name.removeprefix("net.")] for row in table(config)}
    return encoder_of(VPTNet.from_tensors(config, tensors), fast=fast, **options)


def random_net(config: VPTConfig = SMALL, seed: int = 0) -> VPTNet:
    """A network whose every parameter, norms and biases too, is random."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for row in table(config):
        noise = torch.randn(row.shape, generator=generator)
        if row.parameter.endswith("relation_basis"):
            tensors[row.parameter] = noise
        elif noise.dim() > 1:
            # Transformer matrices a little smaller than variance-keeping: a narrow network of large ones amplifies rounding.
            gain = 0.5 if row.parameter.startswith("blocks") else 2
            tensors[row.parameter] = noise * (gain / noise[0].numel()) ** 0.5
        else:
            tensors[row.parameter] = 0.2 * noise + row.parameter.endswith("weight")
    return VPTNet.from_tensors(config, tensors)
