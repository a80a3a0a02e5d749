"""What the network computes in depends on the encoder's precision, and on nothing that the caller has set."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
import torch

import vpt_gym
from vpt_gym.errors import VPTGymError
from vpt_gym.precision import _SWITCHES, DTYPES, Switch, _switches, arithmetic, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_float32_on_a_cpu() -> None:
    assert choose_precision("auto", CPU) == "float32"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_has_it(native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert choose_precision("auto", CUDA) == chosen


@pytest.mark.parametrize(
    ("name", "device", "match"),
    [
        ("float64", CPU, "precision must be one of auto, float32, tf32, bfloat16, float16, not 'float64'"),
        ("tf32", CPU, "precision='tf32' needs a CUDA GPU, but the encoder's device is cpu; use float32 or bfloat16"),
        ("float16", CPU, "precision='float16' needs a CUDA GPU"),
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


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_encoders_say_what_they_compute_in(name: str) -> None:
    encoder = vpt_gym.load_encoder("random:tiny", device="cpu", precision=name)
    assert (encoder.precision, encoder.stream(1).state_dict()["keys_lbhmd"].dtype) == (name, DTYPES[name])
    assert encoder.backend
    assert encoder.fingerprint == vpt_gym.load_encoder("random:tiny", device="cpu").fingerprint


def values(switches: tuple[Switch, ...]) -> list[object]:
    return [getattr(switch.place, switch.name) for switch in switches]


def wishes(switches: tuple[Switch, ...]) -> list[object]:
    return [switch.wanted for switch in switches]


class TestSwitches:
    @pytest.fixture(params=["cuda", "cpu"])
    def switches(self, request: pytest.FixtureRequest) -> tuple[Switch, ...]:
        return _switches(request.param, tf32=False)

    def test_are_set_inside_and_put_back(self, switches: tuple[Switch, ...]) -> None:
        before = values(switches)
        with _SWITCHES.held(switches):
            assert values(switches) == wishes(switches)
            with _SWITCHES.held(switches):
                pass
            assert values(switches) == wishes(switches), "the inner one has put them back"
        assert values(switches) == before

    def test_are_put_back_after_an_error(self, switches: tuple[Switch, ...]) -> None:
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
            assert values(exact) == wishes(exact)
        thread.join()
        assert seen == [wishes(rounded)]

    def test_a_thread_does_not_wait_for_itself(self) -> None:
        """What needs TF32 inside float32 gets it, and float32 is back behind it; another thread waits for both."""
        exact, rounded = _switches("cuda", tf32=False), _switches("cuda", tf32=True)
        before = values(exact)
        seen: list[list[object]] = []

        def nested() -> None:
            with _SWITCHES.held(exact):
                with _SWITCHES.held(rounded), _SWITCHES.held(rounded):
                    seen.append(values(rounded))
                    with _SWITCHES.held(exact):
                        seen.append(values(exact))
                    seen.append(values(rounded))
                seen.append(values(exact))

        thread = threading.Thread(target=nested, daemon=True)
        thread.start()
        thread.join(timeout=30)
        assert seen == [wishes(rounded), wishes(exact), wishes(rounded), wishes(exact)]
        assert values(exact) == before

    def test_what_is_held_inside_another_value_is_the_threads_own(self) -> None:
        exact, rounded = _switches("cuda", tf32=False), _switches("cuda", tf32=True)
        seen: list[list[object]] = []

        def other() -> None:
            with _SWITCHES.held(rounded):
                seen.append(values(rounded))

        thread = threading.Thread(target=other)
        with _SWITCHES.held(exact):
            with _SWITCHES.held(rounded):
                thread.start()
                thread.join(timeout=0.2)
                assert not seen
            assert values(exact) == wishes(exact)
        thread.join(timeout=30)
        assert seen == [wishes(rounded)]

    def test_two_that_would_wait_for_each_other_are_told(self) -> None:
        exact, rounded = _switches("cuda", tf32=False), _switches("cuda", tf32=True)
        both = threading.Barrier(2)
        said: list[str] = []

        def nested() -> None:
            try:
                with _SWITCHES.held(exact):
                    both.wait(timeout=30)
                    with _SWITCHES.held(rounded):
                        said.append("computed")
            except VPTGymError as error:
                said.append(str(error))

        threads = [threading.Thread(target=nested, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert sorted(said)[1] == "computed"
        assert "each would wait for the other" in sorted(said)[0]

    def test_wishes_that_do_not_touch_do_not_wait(self) -> None:
        entered = threading.Event()

        def other() -> None:
            with _SWITCHES.held((Switch(torch.backends.cudnn, "benchmark", wanted=True),)):
                entered.set()

        thread = threading.Thread(target=other)
        with _SWITCHES.held(_switches("cpu", tf32=False)):
            thread.start()
            assert entered.wait(timeout=30)
        thread.join()
        assert torch.backends.cudnn.benchmark is False

    def test_what_the_caller_chose_for_all_still_holds_for_all(self) -> None:
        """A setting that followed its parent follows it afterwards too."""
        torch.set_float32_matmul_precision("medium")
        try:
            with arithmetic(CPU, "float32"):
                assert values(_switches("cpu", tf32=False)) == wishes(_switches("cpu", tf32=False))
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_the_child_of_a_fork_starts_anew(self) -> None:
        with _SWITCHES.held(_switches("cuda", tf32=False)):
            child = os.fork()
            if not child:
                os._exit(int(bool(_SWITCHES._held)))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_modes_of_the_caller_are_left_outside() -> None:
    with torch.inference_mode(), arithmetic(CPU, "float32"):
        made = torch.ones(2)
    made.add_(1)
    with torch.autocast("cpu", dtype=torch.bfloat16), arithmetic(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
