"""bfloat16 where the CPU has none: weights rounded to it, a memory in it, and float32 in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vpt_gym import load_encoder
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn import Memory, attention, cpu
from vpt_gym.nn.cpu import onednn
from vpt_gym.nn.state import Window
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


@pytest.mark.parametrize("named", [False, True], ids=["all rows", "some rows"])
@pytest.mark.parametrize("ring", [torch.bfloat16, torch.float32])
def test_a_few_rows_at_a_time(named: bool, ring: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outputs and the same ring, to the bit, but for the order of sums."""
    config = VPTConfig(hidden_size=32, heads=2, impala_width=1, memory=6)
    monkeypatch.setattr(cpu.attention, "_COPIES", 2 * 2 * 6 * 16 * 4 * 2)
    generator = torch.Generator().manual_seed(0)
    shape = (1, 7, 2, 6, 16)
    keys, values = (torch.randn(shape, generator=generator).to(ring) for _ in range(2))
    slot_b, seen_b = torch.arange(7) % 6, torch.arange(7) % 7
    memories = [Memory(keys.clone(), values.clone(), slot_b, seen_b) for _ in range(2)]
    rows_b = torch.tensor([6, 0, 3, 2, 5]) if named else None
    count = 5 if named else 7
    query, key, value = (torch.randn((count, 2, config.head_size), generator=generator) for _ in range(3))
    mix, basis = torch.randn((count, 2, 10), generator=generator), torch.randn((10, 6), generator=generator)
    found = []
    for memory, how in zip(memories, (attention.attend_single, cpu.attend_single), strict=True):
        window = Window.of(memory, torch.arange(count)[:, None] == 1, rows_b, written_first=True)
        found.append(
            how(query, key.to(ring), value.to(ring), mix, basis, memory.keys_lbhmd[0], memory.values_lbhmd[0], window)
        )
    assert float((found[0] - found[1]).abs().max()) < 1e-6
    assert float(found[0].std()) > 0.1
    for one, two in zip(memories[0].tensors().values(), memories[1].tensors().values(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(memories[0].keys_lbhmd, keys)
