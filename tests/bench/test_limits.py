from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.bench.strangers import Stranger
from tests.support.network import SMALL, encoder_of, random_net
from vpt_gym.bench.limits import SHAPES, convolution, count_flops, flops_per_frame
from vpt_gym.config import PRECISIONS, PRESETS, VPTConfig
from vpt_gym.precision import DTYPES

CPU = torch.device("cpu")


class Sizes(Stranger):
    """An encoder of VPT's kind that has nothing but sizes: no weights of 3x are made to count its FLOPs."""

    frame_size = 128

    def __init__(self, config: VPTConfig, layer: str = "final") -> None:
        self.config, self.layer = config, layer

    def describe(self) -> dict[str, Any]:
        return {"kind": "vpt", "architecture": asdict(self.config), "options": {"layer": self.layer}}


@pytest.mark.parametrize(("preset", "megaflops"), [("1x", 3803), ("2x", 15061), ("3x", 33774)])
def test_the_published_sizes(preset: str, megaflops: int) -> None:
    """Nominal: twice the multiply-adds, 15.06 GFLOP a frame for VPT's 2x network."""
    assert round(flops_per_frame(Sizes(PRESETS[preset])) / 1e6) == megaflops


def test_2x_stage_by_stage() -> None:
    """Twice the multiply-adds of every convolution and product of the paper's appendix D.1, worked out by hand."""
    convolutions = 2 * 9 * (
        128**2 * 3 * 128 + 4 * 128 * 128 * 64**2 + 64**2 * 128 * 256 + 4 * 256 * 256 * 32**2
        + 32**2 * 256 * 256 + 4 * 256 * 256 * 16**2
    )  # fmt: skip
    cnn = convolutions + 2 * 256 * 16**2 * 256 + 2 * 256 * 2048
    assert flops_per_frame(Sizes(PRESETS["2x"], "cnn")) == cnn
    block = 4 * 2 * 2048**2 + 2 * 10 * 16 * (2048 + 128) + 2 * 2 * 128 * 2048 + 2 * 2 * 4 * 2048**2
    assert flops_per_frame(Sizes(PRESETS["2x"])) == cnn + 4 * block + 2 * 2048**2


def test_layers_behind_the_latents_own_are_not_counted() -> None:
    config = replace(SMALL, blocks=2)
    final, block0, cnn = (flops_per_frame(Sizes(config, layer)) or 0 for layer in ("final", "block0", "cnn"))
    assert final > block0 > cnn > 0


def test_torch_counts_as_many_while_the_network_runs() -> None:
    encoder = encoder_of(random_net(PRESETS["tiny"]))
    stream = encoder.stream(1)
    frames = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    assert count_flops(lambda: stream.step(frames, [True])) == flops_per_frame(encoder)


def test_a_strangers_are_counted_as_it_runs() -> None:
    assert flops_per_frame(Stranger()) == 2 * 8 * 8 * 3 * 5


def test_what_torch_cannot_see_is_not_known() -> None:
    class Blind(Stranger):
        def latents(self, frames: np.ndarray) -> torch.Tensor:
            return torch.zeros(len(frames), self.latent_size)

    assert flops_per_frame(Blind()) is None


def test_the_convolution_is_the_one_that_its_flops_are_of() -> None:
    step = convolution("float32", 16, 8, CPU)
    result = step()
    assert isinstance(result, torch.Tensor)
    assert result.shape == (8, 16, 8, 8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert count_flops(step) == 2 * result.numel() * 9 * 16
    assert convolution("bfloat16", 16, 8, CPU)().dtype == torch.bfloat16  # type: ignore[attr-defined]


def test_the_convolutions_are_those_of_the_2x_network() -> None:
    channels = PRESETS["2x"].channels
    assert ((channels[0], 64), (channels[1], 32), (channels[2], 16)) == SHAPES


def test_every_precision_of_the_encoder_can_be_asked_for() -> None:
    assert ("auto", *DTYPES) == PRECISIONS
