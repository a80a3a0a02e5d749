"""Makes `doom:mini`, the encoder in the wheel: records scripted play in six of ViZDoom's scenarios, then pre-trains on it.

    python benchmarks/doom_mini.py record --frames 50000       # of each scenario; about 10 minutes on one core
    python benchmarks/doom_mini.py pretrain --steps 2400       # hours; goes on where it was stopped

What the encoder is judged on is never recorded: HealthGatheringSupreme, TakeCover, DefendCenter, PredictPosition.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
from vizdoom import gymnasium_wrapper  # noqa: F401  registers the scenarios

from vpt_gym.config import PRESETS
from vpt_gym.envs import doom
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain
from vpt_gym.offline.recorder import record

SCENARIOS = ("Basic", "DeadlyCorridor", "DefendLine", "HealthGathering", "MyWayHome", "Deathmatch")
HELD_OUT = ("HealthGatheringSupreme", "TakeCover", "DefendCenter", "PredictPosition")
FRAME_SKIP = 4
RANDOM_SHARE = 0.25
OBJECTIVES = {"clone": 1.0, "depth_map": 30.0, "what_map": 60.0, "inverse": 0.3, "next": 1.0}
"""Weights under which no objective drowns another: losses are sums over a piece's frames."""


def record_play(folder: Path, scenario: str, frames: int) -> None:
    """Records one scenario, all of them with the same seven buttons."""
    record(
        lambda: gym.make(f"Vizdoom{scenario}-v1", **doom.buffers(buttons=True, frame_skip=FRAME_SKIP)),
        doom.Player,
        folder / scenario,
        frames=frames,
        frame_size=PRESETS["mini"].frame_size,
        image_key="screen",
        seed=1,
        random_share=RANDOM_SHARE,
        targets=doom.targets,
        tick=lambda done: print(f"\r{scenario}: {done:,} frames", end="", flush=True),
    )
    print()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "pretrain"))
    parser.add_argument("--folder", type=Path, default=Path("runs/doom-mini"))
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=2_400)
    options = parser.parse_args()
    if options.what == "record":
        for scenario in SCENARIOS:
            record_play(options.folder / "recordings", scenario, options.frames)
    if options.what == "pretrain":
        pretrain(
            PretrainingConfig(
                datasets=tuple(str(options.folder / "recordings" / scenario) for scenario in SCENARIOS),
                out=options.folder / "encoder",
                source="random:mini?seed=0",
                objective=OBJECTIVES,
                steps=options.steps,
                validation=0.01,
                validate_every=200,
            )
        )


if __name__ == "__main__":
    main()
