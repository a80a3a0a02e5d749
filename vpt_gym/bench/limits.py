"""How much arithmetic a frame costs, and how fast the machine does such arithmetic at best."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vpt_gym.bench.rounds import Step
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.latents import LatentChoice
from vpt_gym.nn import Memory, VPTNet
from vpt_gym.precision import DTYPES, arithmetic

__all__ = ["SHAPES", "convolution", "count_flops", "flops_per_frame"]

SHAPES = ((128, 64), (256, 32), (256, 16))
"""Channels and height (and width) of the convolutions of VPT's 2x network that hold nine tenths of its FLOPs."""
FRAMES = {"cpu": 8, "cuda": 256}
"""Frames in one convolution: enough to fill the device, whatever the batch that is measured beside it."""
CALLS = {"cpu": 1, "cuda": 10}
"""Convolutions in one timed step: one alone is too short on a GPU to be timed from outside."""


def flops_per_frame(encoder: Encoder) -> int | None:
    """Nominal FLOPs of one frame, two for each multiply-add of convolutions and matrix products; None where torch sees none.

    Of VPT's networks they are counted on the network as it is defined: what runs may save some (Winograd) or waste some
    (padding), and torch does not see into oneDNN's own operators.
    """
    facts = encoder.describe()
    frames_nhwc = np.zeros((1, encoder.frame_size, encoder.frame_size, 3), np.uint8)
    if facts["kind"] != "vpt":
        stream = encoder.stream(1)
        return count_flops(lambda: stream.step(frames_nhwc, np.ones(1, np.bool_))) or None
    config = VPTConfig(**facts["architecture"])
    choice = LatentChoice(config, facts["options"]["layer"])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VPTNet(config).state_dict().items()}
    # All weights are one and the same zero: another 2x network would be a GB more.
    net = VPTNet.from_tensors(config, {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()})
    memory = Memory.empty(config, 1, blocks=choice.blocks, device=torch.device("cpu"), dtype=torch.float32)
    frames_bthwc, first_bt = torch.from_numpy(frames_nhwc[None]), torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        return count_flops(lambda: net(frames_bthwc, first_bt, memory, layers=choice.layers))


def count_flops(step: Step) -> int:
    """FLOPs of the operators of torch that a step calls."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def convolution(precision: str, channels: int, size: int, device: torch.device) -> Step:
    """A channels-last 3x3 convolution with padding, from `channels` to as many, of frames of `size`x`size`."""
    random = torch.Generator().manual_seed(0)
    frames_nchw = torch.randn((FRAMES[device.type], channels, size, size), generator=random)
    kernel = torch.randn((channels, channels, 3, 3), generator=random) * (2 / (9 * channels)) ** 0.5
    dtype, layout = DTYPES[precision], torch.channels_last
    frames_nchw, kernel = (x.to(device, dtype, memory_format=layout) for x in (frames_nchw, kernel))

    def step() -> Tensor:
        with arithmetic(device, precision):
            for _ in range(CALLS[device.type]):
                result = F.conv2d(frames_nchw, kernel, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return step
