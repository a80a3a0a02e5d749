"""What a benchmark run measures. Free of torch, so that the command line's help need not wait for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from vpt_gym.bench.rounds import Budget

__all__ = ["RIVALS", "Plan"]

RIVALS: Final = ("minestudio", "minestudio-bf16", "policy")
"""What users might take instead: MineStudio's network, eager and autocast, and VPT inside an SB3 policy."""


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        encoder: source of the weights.
        device: as for `load_encoder`.
        batches: environments stepped together, one block of measurements each.
        precisions: names for `load_encoder`; None for float32, what `auto` means here, and bfloat16 where it is native.
        rivals: names from `RIVALS`.
        budget: how long each candidate is measured at each batch size.
        accuracy_steps: frames of each row in the comparison of latents; 0 leaves it out.
        videos: files to measure on; without any, MineStudio's recordings or synthetic pictures.
        policy_steps: steps of each of the 8 environments in the PPO iteration.
        threads: of torch; None leaves them as they are.
    """

    encoder: str
    device: str = "auto"
    batches: tuple[int, ...] = (1, 8, 64, 256)
    precisions: tuple[str, ...] | None = None
    rivals: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    accuracy_steps: int = 1000
    videos: tuple[Path, ...] = ()
    policy_steps: int = 128
    threads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "videos": [str(path) for path in self.videos]}
