"""Makes `doom:mini`, the encoder in the wheel: records scripted play in six of ViZDoom's scenarios, then pre-trains on it.

    python benchmarks/doom_mini.py record --frames 50000       # of each scenario; about 10 minutes on one core
    python benchmarks/doom_mini.py pretrain --steps 2400       # hours; goes on where it was stopped
    python benchmarks/doom_mini.py ship                        # what was trained, in bfloat16, into the package

The longer training of docs/evidence.md, which is not the one in the package:

    python benchmarks/doom_mini.py record --frames 75000 --folder runs/doom-longer
    python benchmarks/doom_mini.py pretrain --steps 8000 --further --precision bf16-mixed --folder runs/doom-longer

What the encoder is judged on is never recorded: HealthGatheringSupreme, TakeCover, DefendCenter, PredictPosition.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import torch
from vizdoom import gymnasium_wrapper  # noqa: F401  registers the scenarios

from vpt_gym.config import PRESETS
from vpt_gym.encoders import load_encoder
from vpt_gym.encoders.loading import load_network
from vpt_gym.envs import doom
from vpt_gym.offline.pretraining.card import read_figures, training_facts, write_card
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain
from vpt_gym.offline.recorder import Targets, record
from vpt_gym.weights import embedded, save_checkpoint

SCENARIOS = ("Basic", "DeadlyCorridor", "DefendLine", "HealthGathering", "MyWayHome", "Deathmatch")
HELD_OUT = ("HealthGatheringSupreme", "TakeCover", "DefendCenter", "PredictPosition")
SOURCE = "doom:mini"
LARGEST = 10_000_000
"""Bytes that it may take in the wheel."""
FRAME_SKIP = 4
RANDOM_SHARE = 0.25
OBJECTIVES = {"clone": 1.0, "depth_map": 30.0, "what_map": 60.0, "inverse": 0.3, "next": 1.0}
"""Weights under which no objective drowns another: losses are sums over a piece's frames."""
FURTHER = {"frame": 30.0, "own_state": 5.0}
"""What `--further` asks for too: a picture of the frame, and what the game knows of the player."""


def record_play(
    folder: Path, scenario: str, frames: int, *, seed: int = 1, targets: Targets | None = doom.targets
) -> Path:
    """Records one scenario, all of them with the same seven buttons."""
    place = record(
        lambda: gym.make(f"Vizdoom{scenario}-v1", **doom.buffers(buttons=True, frame_skip=FRAME_SKIP)),
        doom.Player,
        folder / scenario,
        frames=frames,
        frame_size=PRESETS["mini"].frame_size,
        image_key="screen",
        seed=seed,
        random_share=RANDOM_SHARE,
        targets=targets,
        tick=lambda done: print(f"\r{scenario}: {done:,} frames", end="", flush=True, file=sys.stderr),
    )
    print(file=sys.stderr)
    return place


def ship(encoder: Path, target: Path, hours: float | None) -> int:
    """Puts a trained encoder into the package, in bfloat16, with its heads; how many bytes that are."""
    settings = json.loads((encoder / "pretraining.json").read_text(encoding="utf-8"))
    config = PretrainingConfig(**{**settings, "datasets": tuple(settings["datasets"]), "out": encoder})
    # Lightning logs every tenth step, so this is exact for trainings of a multiple of ten.
    figures = read_figures(encoder)
    steps = 1 + max(step for name, points in figures.items() if name.startswith("train/") for step, _ in points)
    facts = training_facts(config, steps) | {"name": SOURCE} | ({} if hours is None else {"hours": hours})
    source = load_encoder(str(encoder), device="cpu", backend="plain")
    net = load_network(str(encoder)).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as place:
        folder = save_checkpoint(net, source.heads, Path(place, "encoder"), training=facts)
        small = load_encoder(str(folder), device="cpu", backend="plain")
        write_card(folder / "README.md", facts, small.fingerprint, source=SOURCE, licence="MIT, as vpt_gym itself")
        size = sum(file.stat().st_size for file in folder.iterdir())
        if size > LARGEST:
            raise SystemExit(f"The encoder has {size:,} bytes, and the package has room for {LARGEST:,}.")
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, target / file.name)
    return size


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "pretrain", "ship"))
    parser.add_argument("--folder", type=Path, default=Path("runs/doom-mini"))
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=2_400)
    parser.add_argument("--further", action="store_true", help="pretrain: two objectives more")
    parser.add_argument("--precision", default="32-true", help="pretrain: bf16-mixed is faster on CPUs with bfloat16")
    parser.add_argument("--hours", type=float, help="ship: how long the training took, for the model card")
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
                objective=OBJECTIVES | (FURTHER if options.further else {}),
                steps=options.steps,
                precision=options.precision,
                validation=0.005,
                validate_every=300,
            )
        )
    if options.what == "ship":
        target = embedded.FOLDER / embedded.EMBEDDED[SOURCE]
        size = ship(options.folder / "encoder", target, options.hours)
        print(f"{SOURCE}: {size:,} bytes in {target}")


if __name__ == "__main__":
    main()
