"""What the network remembers: rings, chunks, `first`, and rows that never touch each other."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.support.network import encoder_of, random_net
from tests.support.scripted import quick_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn import Memory, VPTNet

TOLERANCE = 1e-4
ROWS = 2


@pytest.fixture(scope="module")
def net() -> VPTNet:
    return random_net()


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    """The real network, convolutions and all, as `load_encoder` arranges it."""
    return encoder_of(random_net(), fast=True)


@pytest.fixture(scope="module")
def quick() -> VPTEncoder:
    return quick_encoder()


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 16, 16, 3), dtype=np.uint8)


def stepped(encoder: VPTEncoder, frames: np.ndarray, first: np.ndarray) -> torch.Tensor:
    stream = encoder.stream(len(frames))
    return torch.stack([stream.step(frames[:, t], first[:, t]) for t in range(frames.shape[1])], dim=1)


@pytest.mark.parametrize("count", [1, 2, 7, 128, 129, 257])
def test_chunks_equal_single_steps(encoder: VPTEncoder, count: int) -> None:
    """`first` anywhere inside, at the start and at the end included."""
    frames = pictures(ROWS, count, seed=count)
    first = np.random.default_rng(count).random((ROWS, count)) < 3 / count
    first[0, -1] = True
    expected = stepped(encoder, frames, first)
    assert float((encoder.encode(frames, first) - expected).abs().max()) <= TOLERANCE
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("sizes", [(128, 128, 60), (1, 127, 128, 3), (100, 7, 100, 2, 128), (5, 1, 1, 128, 128)])
def test_chunks_follow_each_other(quick: VPTEncoder, sizes: tuple[int, ...]) -> None:
    """Any division into chunks gives the same latents, over a ring that wraps in the middle of them."""
    count = sum(sizes)
    frames, first = pictures(ROWS, count), np.random.default_rng(1).random((ROWS, count)) < 0.01
    memory = quick.network.memory(ROWS)
    pieces = []
    for a, b in pairwise(np.cumsum((0, *sizes))):
        latents, memory = quick.network.run(frames[:, a:b], torch.from_numpy(first[:, a:b]), memory)
        pieces.append(latents)
    assert float((torch.cat(pieces, dim=1) - stepped(quick, frames, first)).abs().max()) <= TOLERANCE


def test_window_is_128_frames(quick: VPTEncoder) -> None:
    """The first block sees the frame itself and 127 older ones; a 128th older one makes no difference, not even a bit's."""
    for layer, reach in (("block0", 127), ("block1", 2 * 127)):
        frames = pictures(1, reach + 2)
        flags = np.zeros(frames.shape[:2], np.bool_)
        inside, outside = frames.copy(), frames.copy()
        inside[:, 1], outside[:, 0] = 255 - inside[:, 1], 255 - outside[:, 0]
        shallow = quick_encoder(layer=layer)
        last, last_in, last_out = (stepped(shallow, version, flags)[:, -1] for version in (frames, inside, outside))
        assert float((last - last_out).abs().max()) == 0
        assert float((last - last_in).abs().max()) > 0


def test_first_forgets_everything(quick: VPTEncoder) -> None:
    """A frame with `first` and its successors give what a new stream gives; only the order of sums over the ring differs."""
    frames = pictures(1, 300)
    first = np.zeros((1, 300), np.bool_)
    first[0, 150] = True
    whole = stepped(quick, frames, first)
    for flags in (first[:, 150:], np.zeros((1, 150), np.bool_)):
        assert float((whole[:, 150:] - stepped(quick, frames[:, 150:], flags)).abs().max()) <= 1e-5
    never = stepped(quick, frames, np.zeros((1, 300), np.bool_))
    assert float((whole[:, 151] - never[:, 151]).abs().max()) > 100 * TOLERANCE


def test_rows_never_touch(encoder: VPTEncoder) -> None:
    """Changing row 2 changes the other rows by exactly 0, and row 2 itself by more."""
    frames = pictures(4, 12)
    first = np.random.default_rng(0).random((4, 12)) < 0.1
    other_frames, other_first = frames.copy(), first.copy()
    other_frames[2] = 255 - frames[2]
    other_first[2] = ~first[2]
    difference = (stepped(encoder, frames, first) - stepped(encoder, other_frames, other_first)).abs()
    assert float(difference[[0, 1, 3]].max()) == 0
    assert float(difference[2].min(dim=0).values.max()) > 0.1


def test_permuted_rows_give_permuted_latents(encoder: VPTEncoder) -> None:
    frames, first = pictures(4, 12), np.random.default_rng(0).random((4, 12)) < 0.1
    order = [2, 0, 3, 1]
    difference = stepped(encoder, frames, first)[order] - stepped(encoder, frames[order], first[order])
    assert float(difference.abs().max()) <= 1e-5


def test_rows_move_alone(quick: VPTEncoder) -> None:
    """Steps of random subsets, in random orders, give each row what it gets alone; the others' memory keeps its bits."""
    generator = np.random.default_rng(3)
    count, steps = 5, 400
    stream = quick.stream(count)
    alone = [quick.stream(1) for _ in range(count)]
    worst = 0.0
    for _ in range(steps):
        rows = generator.permutation(count)[: generator.integers(1, count + 1)]
        first = generator.random(len(rows)) < 0.02
        frames = pictures(len(rows), seed=int(generator.integers(10**9)))
        before = stream.state_dict()
        latents = stream.step(frames, first, rows=rows)
        after = stream.state_dict()
        still = np.setdiff1d(np.arange(count), rows)
        for name in ("slot_b", "seen_b"):
            assert torch.equal(before[name][still], after[name][still])
        for name in ("keys_lbhmd", "values_lbhmd"):
            assert torch.equal(before[name][:, still], after[name][:, still])
        for index, row in enumerate(rows):
            expected = alone[row].step(frames[index : index + 1], first[index : index + 1])
            worst = max(worst, float((latents[index] - expected[0]).abs().max()))
    assert worst <= TOLERANCE


def test_rows_of_everything_equal_no_rows(quick: VPTEncoder) -> None:
    frames, first = pictures(3, 5), np.zeros((3, 5), np.bool_)
    stream = quick.stream(3)
    named = torch.stack([stream.step(frames[:, t], first[:, t], rows=[0, 1, 2]) for t in range(5)], dim=1)
    assert float((named - stepped(quick, frames, first)).abs().max()) <= 1e-6


def test_state_dict_restores_the_moment(quick: VPTEncoder) -> None:
    frames, first = pictures(2, 140), np.zeros((2, 140), np.bool_)
    stream = quick.stream(2)
    for t in range(130):
        stream.step(frames[:, t], first[:, t])
    state = stream.state_dict()
    onwards = [stream.step(frames[:, t], first[:, t]) for t in range(130, 140)]
    other = quick.stream(2)
    other.load_state_dict(state)
    assert all(torch.equal(other.step(frames[:, t], first[:, t]), onwards[t - 130]) for t in range(130, 140))
    other.load_state_dict(state)  # the state is the caller's: stepping has not changed it
    assert torch.equal(other.step(frames[:, 130], first[:, 130]), onwards[0])


@pytest.mark.parametrize("count", [1, 3])
def test_failed_step_changes_nothing(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that runs out of memory half-way can simply be tried again."""
    encoder = quick_encoder()
    frames, first = pictures(2, 200), np.zeros((2, 200), np.bool_)
    run = encoder.network.run
    memories = [encoder.network.memory(2) for _ in range(2)]
    for index, memory in enumerate(memories):
        _, after = run(frames[:, :100], torch.from_numpy(first[:, :100]), memory)
        _, memories[index] = run(frames[:, 100:150], torch.from_numpy(first[:, :50]), after)

    def exhausted(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(encoder.network.net.blocks[2].mlp_in, "forward", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            run(frames[:, 150 : 150 + count], torch.from_numpy(first[:, :count]), memories[0])
    retried, never_failed = (
        run(frames[:, 150 : 150 + count], torch.from_numpy(first[:, :count]), memory)[0] for memory in memories
    )
    assert torch.equal(retried, never_failed)


def test_two_threads_share_one_encoder(quick: VPTEncoder) -> None:
    frames, first = pictures(2, 60), np.zeros((2, 60), np.bool_)
    expected = stepped(quick, frames, first)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(stepped(quick, frames, first))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(latents, expected) for latents in found)


def test_bfloat16_stays_close(net: VPTNet) -> None:
    """Half the memory, latents within 2 % of float32 by cosine, over a ring that has wrapped; errors do not grow."""
    short = VPTNet.from_tensors(net.config, {name: value.bfloat16() for name, value in net.state_dict().items()})
    frames = pictures(1, 300)
    exact = encoder_of(net).encode(frames)[0]
    rounded = encoder_of(short, precision="bfloat16").encode(frames)[0]
    assert rounded.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact, rounded, dim=1)
    assert float(cosine.min()) > 0.98


def test_goals_share_a_frame_and_nothing_else() -> None:
    """Each goal has rows of its own: the same as a network whose convolutions add that goal, stepped by itself."""
    net, generator = random_net(), torch.Generator().manual_seed(7)
    goals_bgc = torch.randn(ROWS, 2, net.config.hidden_size, generator=generator)
    frames = torch.from_numpy(pictures(ROWS, 6)).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    first = torch.zeros(ROWS, 6, dtype=torch.bool)
    first[1, 4] = True
    device, dtype = torch.device("cpu"), torch.float32
    together = Memory.empty(net.config, 2 * ROWS, blocks=4, device=device, dtype=dtype)
    seen = []
    for t in range(6):
        now = slice(t, t + 1)
        flags = first[:, now].repeat_interleave(2, dim=0)
        with torch.no_grad():
            (out,), together = net(frames[:, now], flags, together, layers=("final",), goals_bgc=goals_bgc)
        seen.append(out)
    for row in range(ROWS):
        for goal in range(2):
            memory = Memory.empty(net.config, 1, blocks=4, device=device, dtype=dtype)
            shifted = Shifted(net.cnn, goals_bgc[row, goal])
            alone = random_net()
            alone.cnn = shifted
            (expected,), _ = alone(frames[row : row + 1], first[row : row + 1], memory, layers=("final",))
            found = torch.cat([out[2 * row + goal] for out in seen])
            assert float((found - expected[0]).abs().max()) <= TOLERANCE
    assert float((seen[-1][0] - seen[-1][1]).abs().max()) > 0.1, "the goals make no difference"


class Shifted(torch.nn.Module):
    """Convolutions, and a vector added to what they make of each frame."""

    def __init__(self, cnn: torch.nn.Module, goal_c: torch.Tensor) -> None:
        super().__init__()
        self.cnn, self.goal_c = cnn, goal_c

    def forward(self, frames_nhwc: torch.Tensor) -> torch.Tensor:
        return self.cnn(frames_nhwc) + self.goal_c
