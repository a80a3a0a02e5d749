"""The network as a CPU computes it fastest is the network as it is defined."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.network import encoder_of, random_net
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn import VPTNet, cpu
from vpt_gym.nn.cnn import FrameEncoder
from vpt_gym.nn.cpu import frames as cpu_frames
from vpt_gym.nn.cpu import onednn
from vpt_gym.nn.cpu.frames import CPUFrameEncoder
from vpt_gym.nn.cpu.onednn import PackedConv, PackedLinear
from vpt_gym.nn.cpu.scratch import Scratch
from vpt_gym.nn.cpu.winograd import TILE, WinogradConv, tiles, transforms

pytestmark = pytest.mark.skipif(
    onednn.unavailable(torch.float32) is not None, reason=f"{onednn.unavailable(torch.float32)}"
)
TOLERANCE = 1e-4


@pytest.fixture
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of a few frames, as in wide networks."""
    monkeypatch.setattr(cpu_frames, "_LARGEST_ACTIVATION", 2**20)


def by_winograd(net: VPTNet | None = None) -> VPTEncoder:
    return encoder_of(net or random_net(), fast=True, backend="winograd")


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise at a quarter of the size, so that neighbouring pixels are alike as in pictures."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 32, 32, 3), dtype=np.uint8)


def test_transforms_are_exact() -> None:
    a, g, b = transforms()
    data, kernel = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    expected = (data.unfold(1, 3, 1) * kernel[:, None]).sum(dim=2)
    found = ((kernel @ g.T) * (data @ b.T)) @ a.T
    assert float((found - expected).abs().max()) < 1e-13


def test_tiles_are_pixels() -> None:
    x_nhwc = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    assert torch.equal(tiles(x_nhwc)[1, 0, 2, 3, 1], x_nhwc[1, 3, 2 * TILE + 1])


@pytest.mark.parametrize(("frames", "size", "channels", "out"), [(1, 16, 16, 16), (3, 8, 24, 40), (2, 64, 8, 8)])
def test_winograd_equals_convolution(frames: int, size: int, channels: int, out: int) -> None:
    """Norm, borders and ReLU included; from rows and from tiles; as exact as torch's float32 convolution but for a factor."""
    generator = torch.Generator().manual_seed(size)
    norm = nn.GroupNorm(1, channels)
    norm.weight.data = torch.randn(channels, generator=generator)
    norm.bias.data = torch.randn(channels, generator=generator)  # what a border of zeros behind the norm differs by
    norm.requires_grad_(requires_grad=False)
    weight = torch.randn(out, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    x_nhwc = 2 + torch.randn(frames, size, size, channels, generator=generator)
    exact_norm = copy.deepcopy(norm).double()
    normalised = exact_norm(x_nhwc.double().permute(0, 3, 1, 2))
    expected = tiles(F.relu(F.conv2d(normalised, weight.double(), padding=1)).permute(0, 2, 3, 1))

    convolution, scratch = WinogradConv(norm, weight, size), Scratch()
    for given in (x_nhwc, tiles(x_nhwc).contiguous()):
        found = convolution(given.clone(), scratch)
        assert float((found - expected).abs().max()) < 1e-5
    # Working memory is used again: fewer frames, then as many as before.
    assert torch.equal(convolution(x_nhwc[:1].clone(), scratch), convolution(x_nhwc, scratch)[:1])


@pytest.mark.parametrize("rows", [1, 5, 8, 300])
def test_packed_matrices(rows: int) -> None:
    linear = nn.Linear(96, 160).requires_grad_(requires_grad=False)
    x = torch.randn(rows, 2, 96)
    assert float((PackedLinear.of(linear)(x) - linear(x)).abs().max()) < 1e-5
    bare = nn.Linear(96, 160, bias=False).requires_grad_(requires_grad=False)
    assert float((PackedLinear.of(bare)(x) - bare(x)).abs().max()) < 1e-5


def test_packed_convolutions_take_other_sizes_than_the_example() -> None:
    weight, bias = torch.randn(32, 3, 3, 3), torch.randn(32)
    conv = PackedConv(weight, bias, (1, 128, 128), groups=1)
    for frames, size in ((1, 128), (5, 128), (2, 20)):
        x_nhwc = torch.randn(frames, size, size, 3)
        expected = F.conv2d(x_nhwc.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)
        assert float((conv(x_nhwc) - expected).abs().max()) < 1e-4


def exact_vectors(frames: FrameEncoder, frames_nhwc: Tensor) -> Tensor:
    """What the convolutional half gives in float64."""
    exact = copy.deepcopy(frames).double()
    x_nchw = frames_nhwc.permute(0, 3, 1, 2).double() / 255
    for stack in exact.stacks:
        x_nchw = stack(x_nchw)
    x_nf = F.relu(exact.dense(exact.dense_norm(x_nchw.flatten(1))))
    return F.relu(exact.linear(exact.linear_norm(x_nf)))


def test_frames_are_as_exact_as_torchs() -> None:
    """Winograd's rounding is no larger than that of the sums which torch's own convolutions and norms carry along."""
    net = random_net()
    assert isinstance(net.cnn, FrameEncoder)
    frames_nhwc = torch.randint(0, 256, (6, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = exact_vectors(net.cnn, frames_nhwc)
    fast = CPUFrameEncoder(net.cnn, 128)
    ours, torchs = ((encoder(frames_nhwc) - exact).abs().max().item() for encoder in (fast, net.cnn))
    print(f"largest error: Winograd {ours:.1e}, torch {torchs:.1e}")
    assert ours < max(2 * torchs, 1e-5)


@pytest.mark.usefixtures("few_frames")
def test_fast_equals_defined_over_a_wrapped_ring() -> None:
    """170 steps, random `first`, only some rows in between: the same latents to 1e-4, and the same rows moved."""
    slow, fast = encoder_of(random_net()), by_winograd()
    assert "Winograd" in fast.backend
    # Frames are compared below, against float64; here they are the same, so that nothing but the memory can differ.
    slow.network.net.cnn = fast.network.net.cnn
    generator = np.random.default_rng(5)
    one, two = slow.stream(3), fast.stream(3)
    for step in range(170):
        rows = None if step % 3 else sorted(generator.choice(3, generator.integers(1, 4), replace=False).tolist())
        count = 3 if rows is None else len(rows)
        frames, first = pictures(count, seed=step), generator.random(count) < 0.01
        expected, found = one.step(frames, first, rows), two.step(frames, first, rows)
        assert float((expected - found).abs().max()) <= TOLERANCE
    assert float(expected.std()) > 0.1


@pytest.mark.usefixtures("few_frames")
def test_a_frames_neighbours_change_nothing() -> None:
    """Whatever else is in the batch, in whichever pass: the same bits."""
    encoder = by_winograd()
    frames = pictures(7)
    others = frames.copy()
    others[[0, 1, 2, 4, 5, 6]] = pictures(6, seed=1)
    first = np.ones(7, np.bool_)
    one, two = (encoder.stream(7).step(given, first) for given in (frames, others))
    assert torch.equal(one[3], two[3])
    assert not torch.equal(one[2], two[2])


@pytest.mark.usefixtures("few_frames")
def test_threads_have_their_own_working_memory() -> None:
    encoder = by_winograd()
    frames = [pictures(1, 6, seed=seed) for seed in range(4)]
    expected = [encoder.encode(each, layer="cnn") for each in frames]
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = encoder.encode(frames[number], layer="cnn")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], expected[number]) for number in range(4))


@pytest.mark.skipif(onednn.unavailable(torch.bfloat16) is not None, reason=f"{onednn.unavailable(torch.bfloat16)}")
def test_bfloat16_rounds_a_few_times_more_than_directly() -> None:
    """Winograd's transforms multiply rounding errors: by less than ten, with the points chosen here."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(1, 128).requires_grad_(requires_grad=False).bfloat16()
    weight = torch.randn(64, 128, 3, 3, generator=generator) / (9 * 128) ** 0.5
    x_nhwc = torch.randn(1, 32, 32, 128, generator=generator).relu().bfloat16()
    normalised = F.group_norm(x_nhwc.double().permute(0, 3, 1, 2), 1)
    expected = F.relu(F.conv2d(normalised, weight.double(), padding=1)).permute(0, 2, 3, 1)
    direct = F.relu(F.conv2d(norm(x_nhwc.permute(0, 3, 1, 2)), weight.bfloat16(), padding=1)).permute(0, 2, 3, 1)
    ours = WinogradConv(norm, weight.bfloat16(), 32)(x_nhwc, Scratch())
    errors = [
        float((found - wanted).square().mean().sqrt())
        for found, wanted in ((direct, expected), (ours, tiles(expected)))
    ]
    print(f"root mean square error: direct {errors[0]:.1e}, Winograd {errors[1]:.1e}")
    assert errors[1] < 10 * errors[0] < 0.1


def test_bfloat16_matrices_stay_close() -> None:
    """Over a ring that wraps twice, with resets; the latents of the last quarter are as close as those of the first."""
    exact, net = encoder_of(random_net()), random_net()
    net = VPTNet.from_tensors(net.config, {name: value.bfloat16() for name, value in net.state_dict().items()})
    rounded = encoder_of(net, fast=True, precision="bfloat16")
    frames = np.random.default_rng(3).integers(0, 256, (1, 280, 16, 16, 3), dtype=np.uint8)
    first = np.random.default_rng(0).random((1, 280)) < 0.02
    found = F.cosine_similarity(exact.encode(frames, first), rounded.encode(frames, first), dim=2)[0]
    assert float(found.min()) >= 0.98
    assert float(1 - found[210:].median()) < 3 * float(1 - found[:70].median())


@pytest.mark.usefixtures("few_frames")
def test_torchs_defaults_change_nothing() -> None:
    """Neither the default device nor the default type, while the parts are made or while they compute."""
    frames, first = pictures(2), [True, True]
    expected = by_winograd().stream(2).step(frames, first)
    net = random_net()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        encoder = by_winograd(net)
        found = encoder.stream(2).step(frames, first)
    finally:
        torch.set_default_device(None)
        # torch 2.6 would ask this None for its device ever after.
        vars(torch._GLOBAL_DEVICE_CONTEXT).pop("device_context", None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_tiles_that_do_not_divide_the_frames_are_a_reason() -> None:
    assert [size for size in range(8, 200, 8) if cpu.not_in_tiles(size) is None] == [32, 64, 96, 128, 160, 192]
    assert cpu.not_in_tiles(144) == ("Winograd's tiles do not divide frames of 144x144: the side is no multiple of 32")


def test_an_operator_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(onednn, "PackedLinear", missing)
    onednn.unavailable.cache_clear()
    try:
        assert onednn.unavailable(torch.float32) == "this build of torch lacks an operator of oneDNN: no such operator"
    finally:
        onednn.unavailable.cache_clear()
