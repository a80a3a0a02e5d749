"""Run by test_memory.py in a process of its own: load one source and print what that cost, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from vpt_gym.weights import load_checkpoint


def status(field: str) -> int:
    """A figure of this process in bytes, as Linux keeps it (`VmRSS` now, `VmHWM` at the highest so far)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    baseline = status("VmHWM")
    checkpoint = load_checkpoint(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
    figures = {
        "baseline": baseline,
        "peak": status("VmHWM"),
        "weights": sum(tensor.nbytes for tensor in checkpoint.tensors.values()),
        "digest": checkpoint.digest,
    }
    sys.stdout.write(json.dumps(figures))
