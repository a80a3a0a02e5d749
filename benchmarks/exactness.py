"""How far float32 latents are from the same network in float64: MineStudio's, and each way that vpt_gym knows on a CPU.

Three of MineStudio's videos, random resets, random parameters: `python benchmarks/exactness.py [--size] [--steps]`; about
ten minutes at 1x on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.frames import MinecraftVideos
from tests.support.minestudio import minecraft_policy
from tests.support.network import encoder_like
from vpt_gym.config import PRESETS
from vpt_gym.nn import Memory, VPTNet
from vpt_gym.weights import table

BACKENDS = ("plain", "packed", "winograd")


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1x", choices=sorted(PRESETS))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()

    config, policy = PRESETS[options.size], minecraft_policy(options.size, seed=1)
    theirs = policy.state_dict()
    exact = VPTNet.from_tensors(
        config, {row.parameter: theirs[row.vpt_name.removeprefix("net.")].double() for row in table(config)}
    )
    frames = MinecraftVideos().small(options.steps)
    rows = len(frames)
    first = np.random.default_rng(2).random((rows, options.steps)) < 0.02
    first[:, 0] = True

    memory = Memory.empty(config, rows, blocks=config.blocks, device=exact.device, dtype=exact.dtype)
    state = policy.initial_state(rows)
    streams = {name: encoder_like(policy, options.size, fast=True, backend=name).stream(rows) for name in BACKENDS}
    worst: dict[str, dict[str, float]] = {
        name: {"float64": 0.0, "MineStudio": 0.0} for name in (*BACKENDS, "MineStudio")
    }
    for step in range(options.steps):
        image, opens = torch.from_numpy(frames[:, step : step + 1]), torch.from_numpy(first[:, step : step + 1])
        with torch.inference_mode():
            (mine, _), state = policy({"image": image}, state, context={"first": opens})
            (truth,), memory = exact(image, opens, memory, layers=("final",))
        found = {name: stream.step(frames[:, step], first[:, step]) for name, stream in streams.items()}
        for name, latents in (found | {"MineStudio": mine[:, 0]}).items():
            for other, values in (("float64", truth[:, 0]), ("MineStudio", mine[:, 0])):
                distance = float((latents.double() - values.double()).abs().max())
                worst[name][other] = max(worst[name][other], distance)
        print(f"\r{step + 1}/{options.steps} steps", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{options.size}, {options.steps} steps of {rows} rows, largest difference of a latent's number from")
    print(f"{'':>12} {'float64':>9} {'MineStudio':>11}")
    for name, distances in worst.items():
        print(f"{name:>12} {distances['float64']:9.1e} {distances['MineStudio']:11.1e}")


if __name__ == "__main__":
    main()
