"""What a benchmark run measures. Free of torch, so that the command line's help need not wait for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["RIVALS", "Plan"]

RIVALS: Final = ("minestudio", "minestudio-bf16")
"""What users might take instead of VPT here: MineStudio's own network, eager, in float32 and under autocast."""


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        encoder: a source for `load_encoder`.
        encoder_options: options for `load_encoder`, of the source's kind.
        batches: environments stepped together, one block of measurements each.
        precisions: values of the encoder's option `precision`; None for float32, what it chooses itself, and bfloat16 where
            the hardware has it; or for its only one.
        rivals: names from `RIVALS`.
        seconds: measured time of each candidate at each batch size; three steps at least.
        accuracy_steps: frames of each row in the comparison of latents; 0 leaves it out.
        videos: files to measure on; without any, MineStudio's recordings or synthetic pictures.
        threads: of torch; None leaves them as they are.
    """

    encoder: str = "random:2x"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 8, 64, 256)
    precisions: tuple[str, ...] | None = None
    rivals: tuple[str, ...] = ()
    seconds: float = 5.0
    accuracy_steps: int = 1000
    videos: tuple[Path, ...] = ()
    threads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "videos": [str(path) for path in self.videos]}
