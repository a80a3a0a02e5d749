"""Policies and encoders that several tests share; nobody changes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.encoders.minestudio import policies


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums in the same order for one row and for several: with two threads MineStudio's own rounding differs by 1e-4."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vpt() -> Any:
    return policies.vpt_policy()


@pytest.fixture(scope="session")
def steve() -> Any:
    return policies.steve_policy()


@pytest.fixture(scope="session")
def groot() -> Any:
    return policies.groot_policy()


@pytest.fixture(scope="session")
def rocket() -> Any:
    return policies.rocket_policy()
