"""Why Triton's kernels cannot run, said in words; on machines that have neither a GPU nor Triton."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vpt_gym.nn.cuda import availability, unavailable

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda:0")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Pretends that there is a GPU of a compute capability, and Triton."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))
        monkeypatch.setattr(availability, "MISSING", None)

    return pretend


def test_a_cpu() -> None:
    assert unavailable(torch.device("cpu")) == "cpu is not a CUDA device"


def test_a_build_of_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "no NVIDIA GPU" in str(unavailable(GPU))


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_compute_capabilities(capability: tuple[int, int], runs: bool, gpu: Callable[[int, int], None]) -> None:
    gpu(*capability)
    assert unavailable(GPU) == (None if runs else "the GPU has compute capability 7.5, and 8.0 is needed")


def test_without_triton() -> None:
    """The package loads, says what is missing, and offers what needs no Triton."""
    code = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
from vpt_gym.nn.cuda import StepGraphs, TritonFrameEncoder, attend_single, unavailable
torch.version.cuda, torch.cuda.is_available = "13.0", lambda: True
assert unavailable(torch.device("cuda")) == "triton is not installed: pip install triton"
from vpt_gym.nn.cuda import kernels
try:
    kernels.relu_moments(torch.zeros(1, 2, 2, 16))
except RuntimeError as error:
    assert "triton is not installed" in str(error)
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_triton_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, vpt_gym.nn.cuda; assert 'triton' not in sys.modules and 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
