from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.support.network import SMALL, encoder_of, random_net
from vpt_gym.bench import candidates
from vpt_gym.bench.candidates import (
    Candidate,
    fill_memory,
    frames_in_turn,
    measured_open,
    minestudio_network,
    of_encoder,
    of_minestudio,
)
from vpt_gym.bench.pictures import Pictures
from vpt_gym.encoders.minestudio.package import check_installed
from vpt_gym.errors import VPTGymError

CPU = torch.device("cpu")
NOISE = Pictures(tuple(np.random.default_rng(0).integers(0, 256, (2, 9, 128, 128, 3), dtype=np.uint8)), "x")


def test_our_candidate_steps_every_row_on_a_full_memory() -> None:
    step, _, device_bytes = measured_open(of_encoder(encoder_of(random_net())), 3, NOISE)
    latents = step()
    assert isinstance(latents, np.ndarray)
    assert latents.shape == (3, SMALL.hidden_size)
    assert np.isfinite(latents).all()
    assert device_bytes is None


def test_on_cuda_what_opening_and_two_steps_keep_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def reserved(device: torch.device) -> int:
        assert device.type == "cuda"
        return 1000 + 500 * len(happened)

    def open_rows(batch: int, pictures: Pictures) -> tuple[Callable[[], object], float]:
        happened.append("open")
        return lambda: happened.append("step"), 8.0

    monkeypatch.setattr(candidates, "_reserved", reserved)
    cuda = Candidate("x", "float32", torch.device("cuda"), open_rows)
    assert measured_open(cuda, 3, NOISE)[1:] == (8.0, 500.0)
    assert happened == ["open", "step", "step"]


def test_state_is_counted_for_one_environment() -> None:
    """4 blocks x keys and values x 128 frames x 64 numbers in float32, and two int64 that say where the ring stands."""
    _, state_bytes = of_encoder(encoder_of(random_net())).open(3, NOISE)
    assert state_bytes == 4 * 2 * 128 * 64 * 4 + 2 * 8


def test_a_filled_ring_is_seen_by_the_next_frame() -> None:
    encoder = encoder_of(random_net())
    frames, going_on, opening = NOISE.frames(1, 0), np.array([False]), np.array([True])
    stream = encoder.stream(1)
    empty = stream.step(frames, going_on)
    fill_memory(stream, 128)
    assert int(stream.state_dict()["seen_b"]) == 128
    assert not torch.allclose(stream.step(frames, going_on), empty, atol=1e-2)
    assert torch.allclose(stream.step(frames, opening), empty, atol=1e-5)


def test_frames_come_in_turn() -> None:
    hand_out = frames_in_turn(NOISE, 2)
    batches = [hand_out() for _ in range(5)]
    assert batches[4] is batches[0]
    assert len({batch.tobytes() for batch in batches}) == 4


@pytest.mark.minestudio
@pytest.mark.parametrize("autocast", [False, True])
def test_minestudios_network_steps_through_its_own_interface(autocast: bool) -> None:
    candidate = of_minestudio(minestudio_network(SMALL, CPU), CPU, autocast=autocast)
    step, state_bytes = candidate.open(2, NOISE)
    first, second = step(), step()
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert first.shape == (2, SMALL.hidden_size)
    assert first.dtype == np.float32
    assert np.isfinite(second).all()
    # Keys, values and a mask of 128 frames, in float32 under autocast too.
    assert state_bytes == 4 * (2 * 128 * 64 * 4 + 128)
    assert candidate.peak == ("bfloat16" if autocast else "float32")


@pytest.mark.minestudio
def test_minestudios_cache_has_its_full_length_from_the_start() -> None:
    network = minestudio_network(SMALL, CPU)
    state = network.initial_state(1)  # type: ignore[operator]
    frames, first = torch.zeros(1, 1, 128, 128, 3, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        _, after = network({"image": frames}, state, context={"first": first})
    assert [tensor.shape for tensor in after] == [tensor.shape for tensor in state]


def test_a_missing_minestudio_is_one_sentence_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(VPTGymError, match="not installed; from a clone, run: uv pip install --override"):
        check_installed("--against minestudio")
    with pytest.raises(VPTGymError, match="not installed"):
        minestudio_network(SMALL, CPU)
