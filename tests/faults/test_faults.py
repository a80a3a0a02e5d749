"""Seven faults that implementations of VPT have had: each, planted, is caught by the comparison with MineStudio."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import vpt_gym.encoders.inputs
import vpt_gym.encoders.vpt
import vpt_gym.resize
from tests.support.frames import MinecraftVideos
from tests.support.minestudio import minecraft_policy
from tests.support.network import encoder_like
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.nn import attention, cnn, state

pytestmark = pytest.mark.minestudio

STEPS = 24
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder_and_latents(real_frames: MinecraftVideos) -> tuple[VPTEncoder, np.ndarray, np.ndarray, torch.Tensor]:
    """An encoder, raw 640x360 frames with `first` flags, and what MineStudio's network makes of them."""
    policy = minecraft_policy("tiny", seed=3)
    raw, small = real_frames.raw(STEPS, rows=2), real_frames.small(STEPS, rows=2)
    first = np.zeros((2, STEPS), np.bool_)
    first[:, 0] = first[0, 9] = first[1, 15] = True
    state_in, latents = policy.initial_state(2), []
    with torch.inference_mode():
        for t in range(STEPS):
            image, flags = torch.from_numpy(small[:, t : t + 1]), torch.from_numpy(first[:, t : t + 1])
            (latent, _), state_in = policy({"image": image}, state_in, context={"first": flags})
            latents.append(latent[:, 0])
    return encoder_like(policy, "tiny"), raw, first, torch.stack(latents, dim=1)


def gap(encoder: VPTEncoder, raw: np.ndarray, first: np.ndarray, expected: torch.Tensor) -> float:
    """Largest difference of our latents, from raw frames on, to MineStudio's."""
    stream = encoder.stream(2)
    ours = torch.stack([stream.step(raw[:, t], first[:, t]) for t in range(STEPS)], dim=1)
    return float((ours - expected).abs().max())


def mutated(module: types.ModuleType, right: str, wrong: str) -> dict[str, Any]:
    """The module's names after one place of its source was changed."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} must stand exactly once in {module.__name__}"
    namespace: dict[str, Any] = {"__name__": module.__name__}
    # `state.Window` is a dataclass and looks itself up by name, so the code runs under the module's own name.
    exec(compile(source.replace(right, wrong), f"<{module.__name__}, mutated>", "exec"), namespace)
    return namespace


def method(
    module: types.ModuleType, owner: str, name: str, right: str, wrong: str
) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(getattr(module, owner), name, mutated(module, right, wrong)[owner].__dict__[name])

    return plant


def area_resize(patch: pytest.MonkeyPatch) -> None:
    wrong = mutated(vpt_gym.resize, "interpolation=cv2.INTER_LINEAR", "interpolation=cv2.INTER_AREA")["resize"]
    patch.setattr(vpt_gym.encoders.inputs, "resize", wrong)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "BGR order": method(cnn, "FrameEncoder", "_pass", "frames_nhwc.permute(", "frames_nhwc.flip(3).permute("),
    "no /255": method(cnn, "FrameEncoder", "_pass", ".div_(255)", ""),
    "double /255": method(cnn, "FrameEncoder", "_pass", ".div_(255)", ".div_(255).div_(255)"),
    "INTER_AREA resize": area_resize,
    "ignored first": method(
        state, "Window", "of", "torch.where(first_bt, time_t, -1)", "torch.where(first_bt, -1, -1)"
    ),
    "memory not carried": method(
        state,
        "Window",
        "after",
        "slot_b, seen_b = self.slots_bt[:, -1], self.seen_b",
        "slot_b, seen_b = self.slots_bt[:, -1], 0 * self.seen_b",
    ),
    "wrong residual": method(
        attention,
        "Block",
        "forward",
        "x_btc = self.input_norm(x_btc)\n        mixed_btc, key_bthd, value_bthd = self.attention(x_btc,",
        "mixed_btc, key_bthd, value_bthd = self.attention(self.input_norm(x_btc),",
    ),
}


def test_no_fault_no_gap(encoder_and_latents: Any) -> None:
    assert gap(*encoder_and_latents) <= TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str, encoder_and_latents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        found = gap(*encoder_and_latents)
    print(f"{fault}: {found:.3f}")
    assert found > 10 * TOLERANCE
    assert gap(*encoder_and_latents) <= TOLERANCE
