"""Loading 2x peaks below 1.3 times the weights in the wanted precision, plus the process itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.weights.checkpoints import heads, write_safetensors, write_weights
from vpt_gym.config import PRESETS
from vpt_gym.weights import table

PARAMETERS = 230_539_904
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc")


def write_2x(path: Path) -> str:
    # Zeros cost no memory here until somebody writes to them; in the file, and when read, they are as large as any.
    tensors = {spec.vpt_name: torch.zeros(spec.shape) for spec in table(PRESETS["2x"])} | heads(PRESETS["2x"])
    write = write_safetensors if path.suffix == ".safetensors" else write_weights
    return write(path, tensors)


@pytest.fixture(scope="module", params=["safetensors", "weights"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A 2x checkpoint of a gigabyte, in float32 and with heads, that is deleted again."""
    path = tmp_path_factory.mktemp("peak") / f"model.{request.param}"
    yield write_2x(path)
    path.unlink()


def measure(source: str, wanted: str) -> dict[str, int]:
    script = Path(__file__).with_name("peak.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), source, wanted], capture_output=True, text=True, check=True, env=environment
    )
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


@pytest.mark.parametrize(("wanted", "width"), [("float32", 4), ("bfloat16", 2)])
def test_peak_of_loading_2x(source: str, wanted: str, width: int) -> None:
    figures = measure(source, wanted)
    assert figures["weights"] == PARAMETERS * width
    used = figures["peak"] - figures["baseline"]
    # Below the weights themselves, the measure and not the loader would be at fault.
    assert figures["weights"] < used < 1.3 * figures["weights"]


def test_peak_of_drawing_2x() -> None:
    figures = measure("random:2x", "bfloat16")
    assert figures["peak"] - figures["baseline"] < 1.3 * figures["weights"]
