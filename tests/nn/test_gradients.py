"""The network while it learns: gradients through carried memory, cut where it is detached, stopped by `first`."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import vpt_gym
from tests.support.network import random_net
from vpt_gym.config import VPTConfig
from vpt_gym.nn import Memory, VPTNet

SMALL = VPTConfig(hidden_size=16, heads=2, impala_width=1, dense_size=8, blocks=2, memory=64)
ROWS, FRAMES = 2, 64
TOLERANCE = 1e-4
"""Of a gradient, relative to the largest number in it: float32 adds up in another order in every chunk."""


@pytest.fixture(scope="module")
def net() -> VPTNet:
    """A small network whose convolutions are a linear look at 64 coarse pixels, so that 64 frames take no time."""
    net = random_net(SMALL)
    net.cnn = Look(SMALL.hidden_size)
    return net.requires_grad_()


class Look(torch.nn.Module):
    """The mean colours of a grid of 8 x 8 fields, through one matrix."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(192, size, generator=generator) / 14)

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        fields = frames_nhwc.to(self.weight.dtype).unflatten(2, (8, -1)).unflatten(1, (8, -1)).mean(dim=(2, 4))
        return (fields.flatten(1) / 32 - 4) @ self.weight


def frames(count: int = FRAMES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (ROWS, count, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)


def flags(count: int = FRAMES) -> Tensor:
    first_bt = torch.zeros(ROWS, count, dtype=torch.bool)
    first_bt[0, 0] = first_bt[1, 21] = first_bt[1, 22] = True
    return first_bt


def memory_of(net: VPTNet) -> Memory:
    return Memory.empty(net.config, ROWS, blocks=net.config.blocks, device=net.device, dtype=net.dtype)


def gradients(net: VPTNet, size: int, cuts: tuple[int, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss over all frames in chunks of `size`, with the memory detached before the frames in `cuts`, and its gradients."""
    net.zero_grad()
    memory, losses = memory_of(net), []
    borders = sorted({*range(0, FRAMES, size), *cuts, FRAMES})
    target = torch.randn(FRAMES, net.config.hidden_size, generator=torch.Generator().manual_seed(3))
    for start, stop in pairwise(borders):
        if start in cuts:
            memory = memory.detach()
        (out,), memory = net(frames()[:, start:stop], flags()[:, start:stop], memory, layers=("final",))
        losses.append((out * target[start:stop]).sum())
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("cuts", [(), (32,), (7, 14, 40)])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_chunks_give_the_gradients_of_one(net: VPTNet, size: int, cuts: tuple[int, ...]) -> None:
    """Chunks of 1, 2, 7 and 64 frames, with equal cuts: the same loss, the same gradients."""
    loss, wanted = gradients(net, FRAMES, cuts)
    found_loss, found = gradients(net, size, cuts)
    assert float((found_loss - loss).abs() / loss.abs()) <= TOLERANCE
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= TOLERANCE * float(gradient.abs().max()), name


def test_a_cut_makes_a_difference(net: VPTNet) -> None:
    _, whole = gradients(net, FRAMES)
    _, cut = gradients(net, FRAMES, (32,))
    name = "blocks.0.attention.key.weight"
    assert float((whole[name] - cut[name]).abs().max()) > 10 * TOLERANCE * float(whole[name].abs().max())


def test_the_memory_that_went_in_stays(net: VPTNet) -> None:
    memory = memory_of(net)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    for count in (1, 3):
        _, after = net(frames(count), flags(FRAMES)[:, :count], memory, layers=("final",))
        assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())
        assert not torch.equal(after.keys_lbhmd, memory.keys_lbhmd)


def test_first_stops_gradients(net: VPTNet) -> None:
    """What opens an episode owes nothing to the frames before it, in the same chunk or in an earlier one."""
    for border in (3, 5):  # inside the second chunk, and at its start
        memory, first = memory_of(net), torch.zeros(ROWS, 8, dtype=torch.bool)
        first[:, 5] = True
        seen: list[Tensor] = []
        hook = net.cnn.register_forward_hook(partial(keep, seen))
        (_,), memory = net(frames(8)[:, :border], first[:, :border], memory, layers=("final",))
        (out,), _ = net(frames(8)[:, border:], first[:, border:], memory, layers=("final",))
        out[:, 5 - border :].sum().backward()
        hook.remove()
        reached = torch.cat(
            [made.grad.view(ROWS, -1, SMALL.hidden_size) for made in seen if made.grad is not None], dim=1
        )
        assert float(reached[:, -3:].abs().max()) > 0
        assert float(reached[:, :-3].abs().sum()) == 0


def keep(seen: list[Tensor], _module: torch.nn.Module, _given: object, made: Tensor) -> None:
    made.retain_grad()
    seen.append(made)


def test_finite_differences() -> None:
    """Every parameter of a network in float64, convolutions and all, where its gradient is largest."""
    config = VPTConfig(hidden_size=8, heads=2, impala_width=1, dense_size=4, blocks=2, memory=4, frame_size=32)
    tensors = {name: value.double() for name, value in random_net(config).state_dict().items()}
    net = VPTNet.from_tensors(config, tensors).requires_grad_()
    pixels = torch.randint(0, 256, (1, 5, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first = torch.tensor([[True, False, False, True, False]])
    weights = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss() -> Tensor:
        memory = Memory.empty(config, 1, blocks=2, device=net.device, dtype=net.dtype)
        (early,), memory = net(pixels[:, :2], first[:, :2], memory, layers=("final",))
        (late,), _ = net(pixels[:, 2:], first[:, 2:], memory, layers=("final",))
        return (torch.cat([early, late], dim=1)[0] * weights).sum()

    loss().backward()
    step, checked = 1e-8, 0  # so short that hardly a ReLU or a pool changes its mind in between
    for name, parameter in net.named_parameters():
        gradient, numbers = parameter.grad, parameter.data
        index = tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
        kept = numbers[index].item()
        found = []
        for change in (step, -step):
            numbers[index] = kept + change
            with torch.no_grad():
                found.append(float(loss()))
        numbers[index] = kept
        slope = (found[0] - found[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[index]), rel=1e-3, abs=1e-6), name
        checked += 1
    assert checked == len(list(net.parameters()))


def test_load_network() -> None:
    net = vpt_gym.load_network("random:tiny", trainable=True)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in vpt_gym.load_network("random:tiny").parameters())
    encoder = vpt_gym.load_encoder("random:tiny", device="cpu", precision="float32")
    pixels = torch.randint(0, 256, (1, 2, 128, 128, 3), dtype=torch.uint8)
    memory = Memory.empty(net.config, 1, blocks=4, device=net.device, dtype=net.dtype)
    (out,), _ = net(pixels, torch.tensor([[True, False]]), memory, layers=("final",))
    assert float((out.detach() - encoder.encode(pixels)).abs().max()) <= TOLERANCE
    with torch.no_grad():  # nobody else's weights move with these
        net.last.weight.zero_()
    assert float((vpt_gym.load_encoder("random:tiny", device="cpu").encode(pixels)).std()) > 0.1
