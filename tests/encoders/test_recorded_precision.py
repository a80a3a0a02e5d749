"""What a run records of its precision is what the network computes in, whatever torch's own switches say meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vpt_gym
from vpt_gym.encoders import encoder_from_module, image, loading

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _tf32_wished_for() -> Iterator[None]:
    """What people put at the top of their scripts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def rounding() -> str:
    """What torch's switches let the CPU round the factors of float32 products to, now."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if hasattr(matmul, "fp32_precision"):
        return str(matmul.fp32_precision)
    return {"highest": "ieee", "high": "tf32"}[torch.get_float32_matmul_precision()]


class Noting(nn.Module):
    """Maps images to vectors, and notes what it is computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.noted: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.noted.append(rounding())
        vectors: torch.Tensor = self.layer(images.mean(dim=(2, 3)))
        return vectors


def of_vpt() -> tuple[Any, list[str]]:
    encoder: Any = vpt_gym.load_encoder("random:tiny?seed=41", device="cpu", backend="plain")
    noted: list[str] = []
    encoder.network.net.register_forward_pre_hook(lambda *_: noted.append(rounding()))
    return encoder, noted


def of_module() -> tuple[Any, list[str]]:
    encoder = encoder_from_module(Noting(), frame_size=16, device="cpu")
    assert isinstance(encoder.module, Noting)
    return encoder, encoder.module.noted


@pytest.mark.parametrize("make", [of_vpt, of_module])
@pytest.mark.parametrize(("precision", "expected"), [("float32", "ieee"), ("tf32", "tf32")])
def test_the_record_is_true(make: Any, precision: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (loading, image):
        # A CPU has no TF32 to ask for, but torch has the switch on every device.
        monkeypatch.setattr(place, "choose_precision", lambda *_: precision)
    monkeypatch.setattr(loading, "_loaded", {})
    encoder, noted = make()
    wished = rounding()
    encoder.stream(2).step(FRAMES, [True, True])
    assert noted[-1] == expected
    assert encoder.precision == encoder.describe()["precision"] == precision
    assert precision in encoder.words
    assert rounding() == wished, "the switch is the user's again"
