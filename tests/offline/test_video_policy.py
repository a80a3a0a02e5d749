"""The whole of Video Prediction Policy at a small size: the example, and a training run on a video encoder."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.offline.material import require_offline
from tests.support.diffusion import installed, save_clip, save_image_to_video
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "video_prediction_policy.py"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A pipeline that attends to as much as the CLIP beside it gives."""
    installed()
    folder = tmp_path_factory.mktemp("pipelines")
    return str(save_image_to_video(folder / "svd")), str(save_clip(folder / "clip"))


def test_the_example_runs(
    places: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_offline()
    if find_spec("lightning") is None:
        pytest.skip("needs lightning")
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 80
    model, clip = places
    small = ["--frames", "2", "--episodes", "2", "--steps", "4", "--width", "16"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--model", model, "--clip", clip, *small])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "Played one episode of (2, 2, 2, 32) grids: return" in capsys.readouterr().out


@pytest.mark.parametrize("env_id", [ENV_ID, "VizdoomBasic-v1"])
def test_a_run_on_a_video_encoder(
    places: tuple[str, str], env_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if env_id.startswith("Vizdoom"):
        pytest.importorskip("vizdoom")
    small = ("--n-envs", "2", "--n-steps", "8", "--batch-size", "16", "--eval-episodes", "2", "--video", "none")
    source = f"video:{places[0]}?frames=2"
    assert main(["train", env_id, "--encoder", source, *small, "--steps", "16", "--run", str(tmp_path / "run")]) == 0
    assert "64 numbers a frame" in capsys.readouterr().out
