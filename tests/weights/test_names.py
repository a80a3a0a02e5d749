"""The table of names against MineStudio's own network, and against ours."""

from __future__ import annotations

from math import prod

import pytest
import torch

from tests.support.minestudio import import_minestudio_models
from tests.weights.checkpoints import policy_kwargs
from vpt_gym.config import PRESETS
from vpt_gym.nn import VPTNet
from vpt_gym.weights import table


@pytest.mark.parametrize(("preset", "parameters"), [("1x", 62_016_576), ("2x", 230_539_904), ("3x", 505_575_616)])
def test_sizes_are_those_of_the_published_networks(preset: str, parameters: int) -> None:
    specs = table(PRESETS[preset])
    assert len(specs) == 125
    assert len({spec.vpt_name for spec in specs}) == len({spec.parameter for spec in specs}) == 125
    assert sum(prod(spec.shape) for spec in specs) == parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_our_names_are_those_of_our_network(preset: str) -> None:
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in VPTNet(PRESETS[preset]).state_dict().items()}
    assert {spec.parameter: spec.shape for spec in table(PRESETS[preset])} == ours


@pytest.mark.minestudio
@pytest.mark.parametrize("preset", ["1x", "2x", "3x"])
def test_their_names_are_those_of_minestudio(preset: str) -> None:
    models = import_minestudio_models()
    config = PRESETS[preset]
    with torch.device("meta"):
        policy = models.VPTPolicy(policy_kwargs(config))
    theirs = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    inside = {name: shape for name, shape in theirs.items() if name.startswith("net.")}
    assert {spec.vpt_name: spec.shape for spec in table(config)} == inside
    assert len(theirs) == len(inside) + 9
