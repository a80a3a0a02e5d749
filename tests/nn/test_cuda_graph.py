"""Steps by graph against steps kernel by kernel, on a CPU: graphs are recordings of torch's operators (`Recorder`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.nn.cuda.recorded import Recorder
from tests.support.network import random_net
from tests.support.scripted import Thumbnails
from vpt_gym.config import VPTConfig
from vpt_gym.nn import Memory, VPTNet, accelerate, attention
from vpt_gym.nn.cuda import StepGraphs
from vpt_gym.nn.cuda.graph import Capture

CONFIG = VPTConfig(hidden_size=32, heads=2, impala_width=1, dense_size=8, blocks=2, memory=7)
ROWS = 5


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attention, "_may_ask", lambda _: False)
    with torch.no_grad():
        yield


@pytest.fixture
def net() -> VPTNet:
    net = random_net(CONFIG)
    net.cnn = Thumbnails(CONFIG.hidden_size)
    return net


def memory_of(rows: int = ROWS, blocks: int = CONFIG.blocks, device: str = "cpu") -> Memory:
    return Memory.empty(CONFIG, rows, blocks=blocks, device=torch.device(device), dtype=torch.float32)


def eagerly(net: VPTNet, memory: Memory, frames: Tensor, first: Tensor, rows: Tensor | None, *layers: str) -> Tensor:
    device = memory.slot_b.device
    frames, first, rows = frames.to(device), first.to(device), None if rows is None else rows.to(device)
    outputs, after = net(frames[:, None], first[:, None], memory, layers=layers or ("final",), rows_b=rows)
    memory.move_to(after)
    return torch.cat([output[:, 0] for output in outputs], dim=1)


class Steps:
    """Random rows in random orders, all of them now and then, with resets."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def frames(self, count: int) -> Tensor:
        return torch.randint(0, 256, (count, 128, 128, 3), generator=self.generator, dtype=torch.uint8)

    def first(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator) < 0.05

    def __call__(self) -> tuple[Tensor, Tensor, Tensor | None]:
        count = int(torch.randint(1, ROWS + 1, (), generator=self.generator))
        rows = torch.randperm(ROWS, generator=self.generator)[:count]
        whole = count == ROWS and bool(rows[0] > 0)
        return self.frames(count), self.first(count), None if whole else rows


@pytest.mark.parametrize("layers", [("final",), ("cnn", "block0", "block1", "final")])
def test_steps_equal_eager_ones(net: VPTNet, layers: tuple[str, ...]) -> None:
    """200 steps of changing sizes: a ring of 7 slots goes round some 17 times."""
    memory, expected = memory_of(), memory_of()
    recorder = Recorder(memory)
    graphs = StepGraphs(net, memory, layers, capture=recorder)
    steps = Steps()
    for _ in range(200):
        frames, first, rows = steps()
        before = [frames.clone(), first.clone()]
        latents = graphs.step(frames, first, rows)
        assert torch.equal(frames, before[0])
        assert torch.equal(first, before[1])
        assert latents.dtype == torch.float32
        assert latents.shape == (len(frames), len(layers) * CONFIG.hidden_size)
        wanted = eagerly(net, expected, frames, first, rows, *layers)
        torch.testing.assert_close(latents, wanted, rtol=0, atol=1e-5)
        assert torch.equal(memory.slot_b, expected.slot_b)
        assert torch.equal(memory.seen_b, expected.seen_b)
    assert sorted(graphs.sizes) == [1, 2, 3, 4, 5]
    assert recorder.captures == 5
    assert recorder.replays == 200 - 5  # the first step of each size came before its graph


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("triton", [True, False])
def test_real_graphs(triton: bool) -> None:
    """The whole network on a GPU, by CUDA's own graphs, with frames from either side, and against the CPU."""
    reference = random_net(CONFIG)
    net = random_net(CONFIG).to("cuda")
    if triton:
        accelerate(net, "float32", backend="triton")
    memory, expected = memory_of(device="cuda"), memory_of()
    graphs = StepGraphs(net, memory, ("cnn", "final"))
    steps = Steps()
    with torch.backends.cudnn.flags(allow_tf32=False):
        for number in range(100):
            frames, first, rows = steps()
            latents = graphs.step(frames.to("cuda") if number % 2 else frames, first, rows)
            wanted = eagerly(reference, expected, frames, first, rows, "cnn", "final")
            torch.testing.assert_close(latents.cpu(), wanted, rtol=0, atol=1e-3)
            assert torch.equal(memory.slot_b.cpu(), expected.slot_b)
            assert torch.equal(memory.seen_b.cpu(), expected.seen_b)
    assert sorted(graphs.sizes) == [1, 2, 3, 4, 5]


def test_a_layer_before_the_memory(net: VPTNet) -> None:
    memory = memory_of(blocks=0)
    graphs = StepGraphs(net, memory, ("cnn",), capture=Recorder(memory))
    for seed in range(3):
        frames = Steps(seed).frames(ROWS)
        torch.testing.assert_close(graphs.step(frames, torch.zeros(ROWS, dtype=torch.bool), None), net.cnn(frames))
    assert graphs.sizes == (ROWS,)


def test_latents_are_the_callers(net: VPTNet) -> None:
    """They neither change with later steps nor change them, by graph or not."""
    memory, other = memory_of(), memory_of()
    graphs = StepGraphs(net, memory, ("final",), capture=Recorder(memory))
    undisturbed = StepGraphs(net, other, ("final",), capture=Recorder(other))
    steps, kept = Steps(), []
    for _ in range(6):
        frames, first = steps.frames(2), steps.first(2)
        latents = graphs.step(frames, first, torch.tensor([3, 1]))
        frames_again = frames.clone()
        frames.zero_()
        kept.append((latents, latents.clone()))
        assert torch.equal(latents, undisturbed.step(frames_again, first, torch.tensor([3, 1])))
    assert all(torch.equal(latents, copy) for latents, copy in kept)
    kept[-1][0].zero_()
    frames, first = steps.frames(2), steps.first(2)
    rows = torch.tensor([1, 3])
    assert torch.equal(graphs.step(frames, first, rows), undisturbed.step(frames, first, rows))


def test_a_graph_follows_what_is_written_into_the_memory(net: VPTNet) -> None:
    """A state that is loaded by copying needs no new graphs."""
    memory, steps = memory_of(), Steps()
    graphs = StepGraphs(net, memory, ("final",), capture=Recorder(memory))
    for _ in range(10):
        graphs.step(steps.frames(ROWS), steps.first(ROWS), None)
    state = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    frames, first = steps.frames(ROWS), steps.first(ROWS)
    wanted = graphs.step(frames, first, None)
    graphs.step(steps.frames(ROWS), steps.first(ROWS), None)
    for name, tensor in memory.tensors().items():
        tensor.copy_(state[name])
    assert torch.equal(graphs.step(frames, first, None), wanted)


def refused(warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
    warm_up()
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


def half_done(warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
    raise torch.OutOfMemoryError("planted")


@pytest.mark.parametrize("capture", [refused, half_done])
def test_a_failed_capture_is_said_once_and_changes_no_latent(
    net: VPTNet, capture: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    memory, expected, steps = memory_of(), memory_of(), Steps()
    graphs = StepGraphs(net, memory, ("final",), capture=capture)
    with caplog.at_level(logging.INFO, logger="vpt_gym"):
        for _ in range(60):
            frames, first, rows = steps()
            wanted = eagerly(net, expected, frames, first, rows)
            torch.testing.assert_close(graphs.step(frames, first, rows), wanted, rtol=0, atol=1e-5)
    assert graphs.sizes == ()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "CUDA graphs" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_after_a_failure_no_graph_is_used(net: VPTNet, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a new one nor those that were made before."""
    memory, expected, steps = memory_of(), memory_of(), Steps()
    recorder = Recorder(memory)

    def twice(warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
        return refused(warm_up, run) if recorder.captures == 2 else recorder(warm_up, run)

    graphs = StepGraphs(net, memory, ("final",), capture=twice)
    for _ in range(80):
        frames, first, rows = steps()
        wanted = eagerly(net, expected, frames, first, rows)
        torch.testing.assert_close(graphs.step(frames, first, rows), wanted, rtol=0, atol=1e-5)
    assert graphs.sizes == ()
    assert recorder.captures == 2
    assert len(caplog.records) == 1


def test_an_interrupted_step_can_be_taken_again(net: VPTNet) -> None:
    """Ctrl-C anywhere before the graph runs: in the warm-up, after it, in the capture."""
    memory, expected, steps = memory_of(), memory_of(), Steps()
    recorder = Recorder(memory)
    stop_at: list[str] = []

    def stop(where: str) -> None:
        if stop_at == [where]:
            raise KeyboardInterrupt

    def interruptible(warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
        stop("before")
        warm_up()
        stop("warmed up")
        replay = recorder(warm_up, run)
        stop("captured")
        return replay

    graphs = StepGraphs(net, memory, ("final",), capture=interruptible)
    first = torch.zeros(ROWS, dtype=torch.bool)
    # More steps than slots, so that the slot that a warm-up writes to holds a frame that was seen until now.
    for _ in range(2 * CONFIG.memory):
        frames = steps.frames(ROWS)
        eagerly(net, memory, frames, first, None)
        eagerly(net, expected, frames, first, None)
    frames = steps.frames(ROWS)
    assert torch.equal(graphs.step(frames, first, None), eagerly(net, expected, frames, first, None))
    for where in ("before", "warmed up", "captured"):
        stop_at[:] = [where]
        with pytest.raises(KeyboardInterrupt):
            graphs.step(steps.frames(ROWS), first, None)
        assert torch.equal(memory.slot_b, expected.slot_b)
        assert torch.equal(memory.seen_b, expected.seen_b)
    stop_at.clear()
    for _ in range(3):
        frames = steps.frames(ROWS)
        wanted = eagerly(net, expected, frames, first, None)
        torch.testing.assert_close(graphs.step(frames, first, None), wanted, rtol=0, atol=1e-5)
    assert graphs.sizes == (ROWS,)


def test_sixteen_sizes_and_no_more(net: VPTNet) -> None:
    rows = 20
    memory, expected, steps = memory_of(rows), memory_of(rows), Steps()
    recorder = Recorder(memory)
    graphs = StepGraphs(net, memory, ("final",), capture=recorder)
    for _ in range(2):
        for count in range(1, rows + 1):
            frames, first = steps.frames(count), steps.first(count)
            which = torch.randperm(rows, generator=steps.generator)[:count]
            wanted = eagerly(net, expected, frames, first, which)
            torch.testing.assert_close(graphs.step(frames, first, which), wanted, rtol=0, atol=1e-5)
    assert graphs.sizes == tuple(range(1, 17))
    assert recorder.captures == recorder.replays == 16
