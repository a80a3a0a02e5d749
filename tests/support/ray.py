"""Ray, where it is asked for."""

from __future__ import annotations

import os
from typing import Any

import pytest


def require_ray() -> Any:
    """Ray's module; the test is skipped unless VPT_GYM_TEST_RAY=1.

    Ray gives itself fixed seconds to start, and each actor takes some: on two cores that have anything else to do, its tests
    last for minutes and fail by chance. `make test-ray` runs them one after another.
    """
    if os.environ.get("VPT_GYM_TEST_RAY") != "1":
        pytest.skip("Ray's tests want a machine for themselves: make test-ray")
    import ray

    return ray
