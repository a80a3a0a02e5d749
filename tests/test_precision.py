"""What the network computes in depends on the encoder's precision, and on nothing that the caller has set."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import vpt_gym
from vpt_gym.errors import VPTGymError
from vpt_gym.precision import _SWITCHES, DTYPES, _switches, arithmetic, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_float32_on_a_cpu() -> None:
    assert choose_precision("auto", CPU) == "float32"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_has_it(native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert choose_precision("auto", CUDA) == chosen


@pytest.mark.parametrize(
    ("name", "device", "match"),
    [
        ("float64", CPU, "precision must be one of auto, float32, tf32, bfloat16, float16, int8, not 'float64'"),
        ("tf32", CPU, "precision='tf32' needs a CUDA GPU, but the encoder's device is cpu; use float32 or bfloat16"),
        ("float16", CPU, "precision='float16' needs a CUDA GPU"),
        ("int8", CUDA, "precision='int8' is for CPUs; use bfloat16 or float16 on a GPU"),
    ],
)
def test_refusals(name: str, device: torch.device, match: str) -> None:
    with pytest.raises(VPTGymError, match=match):
        choose_precision(name, device)


def test_tf32_needs_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    with pytest.raises(VPTGymError, match=r"compute capability 8\.0, but Some GPU has 7\.5; use float32 or float16"):
        choose_precision("tf32", CUDA)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
def test_encoders_say_what_they_compute_in(name: str) -> None:
    encoder = vpt_gym.load_encoder("random:tiny", device="cpu", precision=name)
    assert (encoder.precision, encoder.dtype) == (name, DTYPES[name])
    assert encoder.path
    assert encoder.fingerprint == vpt_gym.load_encoder("random:tiny", device="cpu").fingerprint


def values(switches: tuple[tuple[Any, str, object], ...]) -> list[object]:
    return [getattr(place, name) for place, name, _ in switches]


class TestSwitches:
    @pytest.fixture(params=["cuda", "cpu"])
    def switches(self, request: pytest.FixtureRequest) -> tuple[tuple[Any, str, object], ...]:
        exact = _switches(request.param, tf32=False)
        if not exact:
            pytest.skip("this torch has no switches for the device")
        return exact

    def test_are_set_inside_and_put_back(self, switches: tuple[tuple[Any, str, object], ...]) -> None:
        before = values(switches)
        with _SWITCHES.held(switches):
            assert values(switches) == [wanted for _, _, wanted in switches]
            with _SWITCHES.held(switches):
                pass
            assert values(switches) == [wanted for _, _, wanted in switches], "the inner one has put them back"
        assert values(switches) == before

    def test_are_put_back_after_an_error(self, switches: tuple[tuple[Any, str, object], ...]) -> None:
        before = values(switches)
        with pytest.raises(ValueError, match="planted"), _SWITCHES.held(switches):
            raise ValueError("planted")
        assert values(switches) == before

    def test_other_wishes_wait(self) -> None:
        exact, rounded = _switches("cuda", tf32=False), _switches("cuda", tf32=True)
        seen: list[list[object]] = []

        def other() -> None:
            with _SWITCHES.held(rounded):
                seen.append(values(rounded))

        thread = threading.Thread(target=other)
        with _SWITCHES.held(exact):
            thread.start()
            thread.join(timeout=0.2)
            assert not seen
            assert values(exact) == [wanted for _, _, wanted in exact]
        thread.join()
        assert seen == [[wanted for _, _, wanted in rounded]]


def test_modes_of_the_caller_are_left_outside() -> None:
    with torch.inference_mode(), arithmetic(CPU, "float32"):
        made = torch.ones(2)
    made.add_(1)
    with torch.autocast("cpu", dtype=torch.bfloat16), arithmetic(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
