"""Many frames at once on a stream's own memory, what is not finite, and states that are checked whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vpt_gym.encoders.network
import vpt_gym.encoders.stream
from tests.support.scripted import quick_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import NonFiniteLatent, ObservationError, VPTGymError

TOLERANCE = 1e-4
ROWS = 3


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 16, 16, 3), dtype=np.uint8)


def stepped(stream: Any, frames: np.ndarray, first: np.ndarray, rows: Any = None) -> Tensor:
    return torch.stack([stream.step(frames[:, t], first[:, t], rows) for t in range(frames.shape[1])], dim=1)


def same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0) -> bool:
    return all(
        float((one[name] - other[name]).abs().max()) <= tolerance for name in one if isinstance(one[name], Tensor)
    )


class TestEncode:
    @pytest.mark.parametrize("lengths", [(1,), (2, 1, 3), (130, 5), (7, 300)])
    def test_equals_steps_on_the_same_memory(self, lengths: tuple[int, ...], encoder: VPTEncoder) -> None:
        """Calls after one another, over a ring that wraps, with resets anywhere; the states agree too."""
        many, single = encoder.stream(ROWS), encoder.stream(ROWS)
        for number, length in enumerate(lengths):
            frames = pictures(ROWS, length, seed=number)
            first = np.random.default_rng(number).random((ROWS, length)) < 0.05
            found, wanted = many.encode(frames, first), stepped(single, frames, first)
            assert found.shape == (ROWS, length, encoder.latent_size)
            assert float((found - wanted).abs().max()) <= TOLERANCE
            assert same(many.state_dict(), single.state_dict(), TOLERANCE)

    def test_some_rows_in_any_order(self, encoder: VPTEncoder) -> None:
        many, single = encoder.stream(ROWS), encoder.stream(ROWS)
        for rows in ([2, 0], [1], [0, 2, 1]):
            frames, first = pictures(len(rows), 20, seed=rows[0]), np.zeros((len(rows), 20), np.bool_)
            first[:, 11] = True
            before = many.state_dict()
            found = many.encode(frames, first, rows=rows)
            assert float((found - stepped(single, frames, first, rows)).abs().max()) <= TOLERANCE
            still = [row for row in range(ROWS) if row not in rows]
            assert torch.equal(many.state_dict()["keys_lbhmd"][:, still], before["keys_lbhmd"][:, still])
            assert torch.equal(many.state_dict()["slot_b"][still], before["slot_b"][still])

    def test_rows_are_bounded(self, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """More rows than are remembered side by side go through in parts, with the same latents; no more memory is made."""
        frames, first = pictures(9, 6), np.random.default_rng(0).random((9, 6)) < 0.2
        expected = encoder.stream(9).encode(frames, first)
        asked: list[int] = []
        real = vpt_gym.encoders.network.LatentNetwork.memory

        def memory(self: Any, rows: int) -> Any:
            asked.append(rows)
            return real(self, rows)

        for module in (vpt_gym.encoders.stream, vpt_gym.encoders.vpt):
            monkeypatch.setattr(module, "ROWS_PER_CHUNK", 4)
        monkeypatch.setattr(vpt_gym.encoders.network.LatentNetwork, "memory", memory)
        assert float((encoder.encode(frames, first) - expected).abs().max()) <= TOLERANCE
        assert asked == [4, 4, 1]
        assert float((encoder.stream(9).encode(frames, first) - expected).abs().max()) <= TOLERANCE

    @pytest.mark.parametrize("fault", [KeyboardInterrupt, torch.OutOfMemoryError])
    def test_what_breaks_off_has_moved_nothing(
        self, fault: type[BaseException], encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = encoder.stream(ROWS)
        stream.encode(pictures(ROWS, 10), np.zeros((ROWS, 10), np.bool_))
        before = stream.state_dict()
        real, calls = vpt_gym.encoders.network.LatentNetwork.run, iter(range(100))

        def run(self: Any, *arguments: Any, **options: Any) -> Any:
            if next(calls) == 2:
                raise fault
            return real(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(vpt_gym.encoders.network.LatentNetwork, "run", run)
            with pytest.raises(fault):
                stream.encode(pictures(ROWS, 300), np.zeros((ROWS, 300), np.bool_))
        assert same(stream.state_dict(), before)

    @pytest.mark.parametrize(
        ("frames", "first", "rows", "match"),
        [
            (pictures(3), np.zeros(3, np.bool_), None, r"shape \[n, T, height, width, 3\]"),
            (pictures(2, 4), np.zeros((2, 4), np.bool_), None, "each of the 3 environments stepped, but 2 came"),
            (pictures(3, 4), np.zeros((3, 5), np.bool_), None, r"first must be bool of shape \(3, 4\)"),
            (pictures(1, 4), np.zeros((1, 4), np.bool_), [3], "rows must be distinct and between 0 and 2"),
        ],
    )
    def test_refused(self, frames: Any, first: Any, rows: Any, match: str, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=f"encode: .*{match}"):
            encoder.stream(ROWS).encode(frames, first, rows)


class Breaking(torch.nn.Module):
    """Convolutions that make NaN, or infinity, of frames whose first pixel is 255."""

    def __init__(self, cnn: torch.nn.Module, value: float) -> None:
        super().__init__()
        self.cnn, self.value = cnn, value

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        bad_n = frames_nhwc[:, 0, 0, 0] == 255
        return self.cnn(frames_nhwc).masked_fill(bad_n[:, None], self.value)


@pytest.fixture(params=[float("nan"), float("inf")])
def breaking(request: pytest.FixtureRequest) -> Iterator[VPTEncoder]:
    encoder = quick_encoder()
    net = encoder.network.net
    net.cnn = Breaking(net.cnn, request.param)
    return encoder


class TestNotFinite:
    def test_it_stays_in_its_row_and_its_episode(self, breaking: VPTEncoder) -> None:
        """In a piece of many frames: no other row, no earlier frame, nothing after the next `first`."""
        frames, first = pictures(ROWS, 12) // 2, np.zeros((ROWS, 12), np.bool_)
        first[:, 0] = first[1, 8] = True
        bad = frames.copy()
        bad[1, 4] = 255
        network = breaking.network
        tensors = [torch.from_numpy(array) for array in (frames, bad)]
        outputs = []
        for pixels in tensors:
            small = pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
            with network.arithmetic():
                (out,), memory = network.net(small, torch.from_numpy(first), network.memory(ROWS), layers=("final",))
            outputs.append(out)
        touched = torch.zeros(ROWS, 12, dtype=torch.bool)
        touched[1, 4:8] = True
        assert not outputs[1][touched].isfinite().all(dim=1).any()
        assert float((outputs[1] - outputs[0])[~touched].abs().max()) <= 1e-6
        del memory

    @pytest.mark.parametrize("rows", [None, [0, 2, 1]])
    def test_a_step_names_rows_and_precision_and_moves_nothing(self, rows: Any, breaking: VPTEncoder) -> None:
        stream, twin = breaking.stream(ROWS), breaking.stream(ROWS)
        for each in (stream, twin):
            each.encode(pictures(ROWS, 200) // 2, np.zeros((ROWS, 200), np.bool_))
        bad = pictures(ROWS, seed=1) // 2
        bad[2] = 255
        with pytest.raises(NonFiniteLatent, match=r"rows \[\d\] are NaN or infinite in float32") as caught:
            stream.step(bad, [False] * ROWS, rows=rows)
        assert caught.value.rows == [2 if rows is None else 1]
        # The others go on, and so does this one when its frame is sound or opens an episode.
        good = pictures(ROWS, seed=2) // 2
        assert torch.equal(stream.step(good, [False] * ROWS), twin.step(good, [False] * ROWS))

    def test_encode_names_the_streams_rows(self, breaking: VPTEncoder) -> None:
        stream = breaking.stream(ROWS)
        before = stream.state_dict()
        bad = pictures(2, 5) // 2
        bad[1, 3] = 255
        with pytest.raises(NonFiniteLatent) as caught:
            stream.encode(bad, np.zeros((2, 5), np.bool_), rows=[2, 0])
        assert caught.value.rows == [0]
        assert same(stream.state_dict(), before)


class TestStates:
    @pytest.mark.parametrize(
        ("name", "value", "match"),
        [
            ("slot_b", torch.tensor([0, 10**6, 0]), "slot_b must be whole numbers .int64. from 0 to 127"),
            ("slot_b", torch.tensor([0.0, 1.0, 2.0]), "slot_b must be whole numbers"),
            ("seen_b", torch.tensor([0, -5, 0]), "seen_b must be whole numbers .int64. from 0 to 128"),
            ("seen_b", torch.tensor([129, 0, 0]), "seen_b must be whole numbers"),
            ("seen_b", torch.tensor([float("nan")] * 3), "seen_b must be whole numbers"),
            ("slot_b", torch.tensor([0, 1]), "slot_b has shape"),
        ],
    )
    def test_what_no_memory_can_hold(self, name: str, value: Tensor, match: str, encoder: VPTEncoder) -> None:
        stream = encoder.stream(ROWS)
        stream.step(pictures(ROWS), [True] * ROWS)
        before = stream.state_dict()
        with pytest.raises(VPTGymError, match=match):
            stream.load_state_dict({**before, name: value})
        assert same(stream.state_dict(), before)

    def test_numbers_that_are_not_finite(self, encoder: VPTEncoder) -> None:
        """Refused where the running episode would see them, taken where nobody looks any more."""
        stream = encoder.stream(ROWS)
        stream.step(pictures(ROWS), [True] * ROWS)
        state = stream.state_dict()
        slot = int(state["slot_b"][1])
        state["values_lbhmd"][0, 1, 0, (slot + 3) % 128, 0] = float("nan")
        stream.load_state_dict(state)
        assert bool(stream.step(pictures(ROWS), [False] * ROWS).isfinite().all())
        state["values_lbhmd"][0, 1, 0, slot, 0] = float("inf")
        with pytest.raises(VPTGymError, match="values_lbhmd holds NaN or infinity in a running episode"):
            stream.load_state_dict(state)

    @pytest.mark.parametrize("state", [None, [], "state"])
    def test_no_state_at_all(self, state: Any, encoder: VPTEncoder) -> None:
        with pytest.raises(VPTGymError, match="A stream's state is a dict with the tensors"):
            encoder.stream(ROWS).load_state_dict(state)

    def test_a_shallow_copy_is_refused(self, encoder: VPTEncoder) -> None:
        with pytest.raises(VPTGymError, match=r"use copy\.deepcopy"):
            copy.copy(encoder.stream(1))
