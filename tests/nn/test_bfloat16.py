"""bfloat16 where the CPU has none: weights rounded to it, a memory in it, and float32 in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vpt_gym import load_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn.cpu import onednn
from vpt_gym.precision import computing_dtype

TOLERANCE = 0.03
"""Root mean square error of a latent over its own root mean square, against float32; emulated bfloat16 has twice as much."""

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = onednn.unavailable
    monkeypatch.setattr(onednn, "unavailable", lambda dtype: "planted" if dtype == torch.bfloat16 else whole(dtype))


def loaded(precision: str) -> VPTEncoder:
    encoder = load_encoder("random:tiny?seed=3", device="cpu", precision=precision, backend="plain")
    assert isinstance(encoder, VPTEncoder)
    return encoder


def test_what_is_held_in_what() -> None:
    assert computing_dtype("bfloat16", CPU) == torch.float32
    encoder = loaded("bfloat16")
    assert encoder.precision == "bfloat16"
    assert encoder.backend == "torch's own operators, in float32"
    memory = encoder.network.memory(2)
    assert memory.keys_lbhmd.dtype == memory.values_lbhmd.dtype == torch.bfloat16
    rounded, exact = (dict(each.network.net.named_parameters()) for each in (encoder, loaded("float32")))
    for name, weight in rounded.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, exact[name].bfloat16().float())


def test_a_gpu_is_asked_for_what_it_is() -> None:
    assert computing_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16


def test_latents_stay_close() -> None:
    """Stepped past the memory's end, with resets in some rows; the last latents are as near as the first."""
    exact, rounded = loaded("float32").stream(2), loaded("bfloat16").stream(2)
    generator = np.random.default_rng(0)
    errors = []
    for step in range(140):
        frames = generator.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        first = np.array([step == 0, step % 50 == 0])
        wanted, found = exact.step(frames, first), rounded.step(frames, first)
        errors.append(float((wanted - found).square().mean().sqrt() / wanted.square().mean().sqrt()))
    print(f"error: largest {max(errors):.1e}, median {np.median(errors):.1e}")
    assert 0 < max(errors) < TOLERANCE
    assert np.median(errors[-40:]) < 2 * np.median(errors[:40])
