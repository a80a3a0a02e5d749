"""What a benchmark run measures. Free of torch, so that the command line's help need not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["RIVALS", "Plan"]

RIVALS: Final = ("minestudio", "minestudio-bf16")
"""What users might take instead of VPT here: MineStudio's own network, eager, in float32 and under autocast."""


@dataclass(frozen=True)
class Plan:
    """What a run measures: the options of `vpt-gym bench`, whose help says what they are and what None stands for."""

    encoder: str = "random:2x"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 8, 64, 256)
    precisions: tuple[str, ...] | None = None
    rivals: tuple[str, ...] = ()
    seconds: float = 5.0
    accuracy_steps: int = 1000
    videos: tuple[Path, ...] = ()
    threads: int | None = None
