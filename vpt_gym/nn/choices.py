"""Which way was fastest, remembered in the process and in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from vpt_gym.nn.net import VPTNet

__all__ = ["Choice", "Choices", "cache_file"]

_KEPT: Final = 100
"""Choices in the file: the newest."""

_of_process: dict[str, Choice] = {}


@dataclass(frozen=True)
class Choice:
    """The backends that a network is computed with.

    Attributes:
        frames: up to how many frames which backend computes the convolutional half; the last one computes all that are more.
        blocks: the backend of all the rest.
    """

    frames: tuple[tuple[int, str], ...]
    blocks: str


def cache_file() -> Path:
    """Where choices are kept from one process to the next."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never fails, as Path.home may
    return Path(folder, "vpt_gym", "backends.json")


class Choices:
    """The choice for one network on this machine: by hardware, threads, versions, this package's code, sizes and precision.

    A file that cannot be read, is damaged or cannot be written is no error: then the ways are tried again next time.
    """

    def __init__(self, net: VPTNet, precision: str, names: tuple[str, ...]) -> None:
        self._names = names
        facts = {
            "hardware": _hardware(net.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "vpt_gym": _code(),
            "network": net.config.to_dict(),
            "precision": precision,
            "dtype": str(net.dtype),
            "backends": names,
        }
        self._key = json.dumps(facts, sort_keys=True)

    def recall(self) -> Choice | None:
        """What was chosen for these circumstances, if that is known."""
        if self._key not in _of_process:
            choice = self._parsed(_read().get(self._key))
            if choice is None:
                return None
            _of_process[self._key] = choice
        return _of_process[self._key]

    def remember(self, choice: Choice) -> None:
        """Keeps it, in the process at least."""
        _of_process[self._key] = choice
        kept = {**_read(), self._key: asdict(choice)}
        try:
            _write(dict(list(kept.items())[-_KEPT:]))
        except OSError:
            return

    def _parsed(self, value: object) -> Choice | None:
        """The choice, if it is one between the backends that are here."""
        if not isinstance(value, Mapping):
            return None
        frames, blocks = value.get("frames"), value.get("blocks")
        if blocks not in self._names or not isinstance(frames, list) or not frames:
            return None
        for entry in frames:
            if not (
                isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], int) and entry[1] in self._names
            ):
                return None
        return Choice(tuple((limit, name) for limit, name in frames), blocks)


def _read() -> dict[str, Any]:
    try:
        value = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(value: dict[str, Any]) -> None:
    """In one piece: who reads meanwhile reads the old file or the new one."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_capability(device)}"
    # oneDNN and MKL have switches of their own for instructions that are not to be used.
    switches = [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")]
    return ", ".join([_cpu_model(), torch.backends.cpu.get_cpu_capability(), f"{os.cpu_count()} cores", *switches])


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


@cache
def _code() -> str:
    """A hash of the network's code: what another version computes has to be proven and timed again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
