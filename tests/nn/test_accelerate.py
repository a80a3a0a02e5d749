"""Which parts a device gets, and what is said when it cannot have them. What the parts compute is compared elsewhere."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tests.support.network import encoder_of, random_net
from tests.support.scripted import quick_encoder
from vpt_gym.nn import VPTNet, accelerate, cuda
from vpt_gym.nn.attention import attend_single
from vpt_gym.nn.cnn import FrameEncoder


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says it lies on a GPU; nothing is computed with it."""
    monkeypatch.setattr(VPTNet, "device", torch.device("cuda"))


@pytest.mark.usefixtures("on_cuda")
def test_a_gpu_gets_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(cuda, "probe", lambda _: None, raising=False)
    monkeypatch.setattr(cuda, "rehearse", lambda *_: None, raising=False)
    net = random_net()
    assert accelerate(net) == "cuDNN's convolutions, Triton's kernels"
    assert isinstance(net.cnn, cuda.TritonFrameEncoder)
    for block in net.blocks:
        assert block.attention.single_step is cuda.attend_single
        assert block.attention.fused is not None


@pytest.mark.usefixtures("on_cuda")
def test_a_kernel_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(cuda, "probe", lambda _: None, raising=False)
    monkeypatch.setattr(cuda, "rehearse", lambda *_: "a kernel of Triton failed (planted)", raising=False)
    net, untouched = random_net(), random_net()
    with caplog.at_level(logging.WARNING, "vpt_gym"):
        assert accelerate(net) == "torch's own operators"
    assert "planted" in caplog.text
    assert net.state_dict().keys() == untouched.state_dict().keys()


@pytest.mark.usefixtures("on_cuda")
def test_a_gpu_without_triton_gets_torchs_operators(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "probe", lambda _: "triton is not installed", raising=False)
    net = random_net()
    with caplog.at_level(logging.WARNING, "vpt_gym"):
        assert accelerate(net) == "torch's own operators"
    assert [record.getMessage() for record in caplog.records] == [
        "The network is computed by torch's own operators, with the same latents, but slower: triton is not installed."
    ]
    assert isinstance(net.cnn, FrameEncoder)
    assert all(block.attention.single_step is attend_single for block in net.blocks)


@pytest.mark.parametrize("fast", [False, True])
def test_one_matrix_is_four(*, fast: bool) -> None:
    """Query, key, value and relation as one matrix: single steps and longer pieces give what the four give."""
    four, one = encoder_of(random_net()), encoder_of(random_net(), fast=fast)
    if not fast:
        for block in one.network.net.blocks:
            block.attention.fuse()
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    assert float((four.encode(frames) - one.encode(frames)).abs().max()) < 1e-4
    streams = [encoder.stream(2) for encoder in (four, one)]
    for step in range(3):
        expected, found = (stream.step(frames[:, step], [step == 0] * 2) for stream in streams)
        assert float((expected - found).abs().max()) < 1e-4


def test_a_step_costs_what_its_rows_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that stand still are neither seen by the convolutions nor read from the memory."""
    encoder = quick_encoder()
    seen: list[int] = []
    read: list[int] = []
    cnn, attention = encoder.network.net.cnn, encoder.network.net.blocks[0].attention
    forward, single_step = cnn.forward, attention.single_step

    def counted(frames_nhwc: torch.Tensor) -> torch.Tensor:
        seen.append(len(frames_nhwc))
        return forward(frames_nhwc)

    def watched(query_bhd: torch.Tensor, *rest: object) -> torch.Tensor:
        read.append(len(query_bhd))
        return single_step(query_bhd, *rest)

    monkeypatch.setattr(cnn, "forward", counted)
    monkeypatch.setattr(attention, "single_step", watched)
    stream = encoder.stream(6)
    frames = np.zeros((6, 16, 16, 3), np.uint8)
    stream.step(frames, [True] * 6)
    stream.step(frames[:2], [False] * 2, rows=[1, 4])
    assert seen == read == [6, 2]
