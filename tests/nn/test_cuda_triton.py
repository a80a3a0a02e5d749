"""Triton's kernels without a GPU: computed by its interpreter, and compiled for GPUs that are not there.

Each kind runs in a process of its own, because Triton decides when it is imported whether it interprets, and torch may have
imported it already.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("cuda")
ROOT = FOLDER.parents[2]


def require_triton() -> None:
    """Skips where there is no Triton, unless VPT_GYM_REQUIRE_TRITON=1 promises one."""
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("VPT_GYM_REQUIRE_TRITON") == "1":
            pytest.fail("VPT_GYM_REQUIRE_TRITON=1, but triton is not installed")
        pytest.skip("triton is not installed")


@pytest.mark.parametrize(("kind", "interpreted"), [("interpreted", "1"), ("compiled", "0")])
def test_kernels(kind: str, interpreted: str) -> None:
    require_triton()
    environment = {**os.environ, "TRITON_INTERPRET": interpreted}
    files = sorted(map(str, FOLDER.glob(f"*_{kind}.py")))
    assert files
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
