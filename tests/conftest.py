"""What every test shares: a quiet, offline, headless process, and real Minecraft frames."""

from __future__ import annotations

import os

# Before anything reads them. A test of the hub sets its own endpoint and switches the hub back on.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SDL_VIDEODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

from tests.support.frames import MinecraftVideos
from tests.support.minestudio import require_minestudio

# Two threads whatever the machine has: sums are taken in the same order, and tests do not fight over cores.
torch.set_num_threads(2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.minestudio` skips, or fails where MineStudio is promised, before the test's fixtures are made."""
    if item.get_closest_marker("minestudio"):
        require_minestudio()


@pytest.fixture(scope="session")
def real_frames() -> MinecraftVideos:
    """Real Minecraft frames: `real_frames.small(T)` [3, T, 128, 128, 3], `real_frames.raw(T)` [3, T, 360, 640, 3]."""
    require_minestudio()
    return MinecraftVideos()
