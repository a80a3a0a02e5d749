"""Which machine and which commit a measurement comes from."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["commit", "cpu_flags", "cpu_words", "hardware"]

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""Instruction sets that decide how fast convolutions are, by their names in Linux."""


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine, for a record: processor, its usable cores, torch's threads, memory; the GPU where `device` is one."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "cpu_flags": cpu_flags(),
        "memory_bytes": _memory(),
        "system": platform.platform(),
        "environment": {
            name: os.environ[name] for name in sorted(os.environ) if name.startswith(("OMP_", "KMP_", "MKL_"))
        },
    }
    if device.type == "cuda":
        facts["gpu"] = _gpu(device)
    return facts


def cpu_flags() -> list[str]:
    """Those of `FLAGS` that the processor has; empty where the system does not say (only Linux does)."""
    present = set(_cpuinfo("flags").split())
    return [flag for flag in FLAGS if flag in present]


def cpu_words() -> str:
    """The processor, and how many of its cores this process may use."""
    cores = _cores()
    return f"{_cpu_model()}, {cores} core{'s' * (cores != 1)}"


def commit(package: Path) -> str | None:
    """The commit of the checkout that `package` lies in, with `-dirty` where files differ from it; None outside of one.

    Args:
        package: folder of the imported package. An environment inside another project's checkout is not a checkout of it.
    """
    if not (package.parent / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _cores() -> int:
    # The system's count is not this process's in a container or under taskset.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    found = re.search(rf"^{field}\s*: (.*)$", info.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1].strip() if found else ""


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not a POSIX system, or one that does not say
        return None


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": _driver(),
    }


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].strip() or None
