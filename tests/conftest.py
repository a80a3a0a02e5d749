"""What every test shares: a quiet, offline, headless process, and real Minecraft frames."""

from __future__ import annotations

import os

# Before anything reads them. A test of the hub sets its own endpoint and switches the hub back on.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SDL_VIDEODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"
# OpenMP's threads sleep while they wait. Spinning ones make torch ten times slower on a machine with other work to do.
os.environ["OMP_WAIT_POLICY"] = "passive"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.frames import MinecraftVideos
from tests.support.minestudio import require_minestudio

LONG = ("test_docs.py", "parity/", "compare/test_run.py", "nn/test_cuda_triton.py", "bench/", "offline/", "training/")
"""Begun first, in this order: with two workers and whole modules, what is long and comes last leaves one of them idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long modules first; `--no-loadscope-reorder` keeps this order."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(folder).as_posix()
        return next((number for number, long in enumerate(LONG) if name.startswith(long)), len(LONG))

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fixes the threads, and lets `@pytest.mark.minestudio` skip, or fail where MineStudio is promised, before fixtures.

    The count is the same on every machine, so that sums are taken in the same order. One thread, because small networks
    are quickest so and tests that share a machine stay out of each other's way; two where VPT runs at full size, unless
    pytest-xdist has another test running beside.
    """
    compares = item.get_closest_marker("minestudio") is not None
    torch.set_num_threads(2 if compares and "PYTEST_XDIST_WORKER" not in os.environ else 1)
    if compares:
        require_minestudio()


@pytest.fixture(scope="session")
def real_frames() -> MinecraftVideos:
    """Real Minecraft frames: `real_frames.small(T)` [3, T, 128, 128, 3], `real_frames.raw(T)` [3, T, 360, 640, 3]."""
    require_minestudio()
    return MinecraftVideos()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The real package, which reads its environment variables once, and tells its makers nothing."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    package = pytest.importorskip("wandb")
    package.teardown()
    yield package
    package.teardown()


@pytest.fixture
def logged(wandb: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What wandb is told, which keeps it on this machine."""
    kind = wandb.sdk.wandb_run.Run
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told: list[dict[str, Any]] = []
    log = wandb.sdk.wandb_run.Run.log

    def noted(run: Any, data: dict[str, Any], **options: Any) -> None:
        told.append(dict(data))
        log(run, data, **options)

    monkeypatch.setattr(kind, "log", noted)
    return told
