"""Frames a second of one stream: the median step over many, with hardware and versions.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/encoder_speed.py random:tiny --batch 1 8

Frames are 128x128 already, so that the resize, which happens in the environments' processes, is not part of it.
"""

from __future__ import annotations

import argparse
import platform
import time
from statistics import median

import numpy as np
import torch
from demo import hardware

import vpt_gym


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "encoder", nargs="?", default="random:tiny", help="source of the weights (default: random:tiny)"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="environments stepped together")
    parser.add_argument("--steps", type=int, default=200, help="measured steps for each batch (default: 200)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = vpt_gym.load_encoder(arguments.encoder)
    print(
        f"{arguments.encoder}, {encoder.device}, {encoder.dtype}, {arguments.threads} threads, {hardware()}, ", end=""
    )
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    for batch in arguments.batch:
        seconds = step_seconds(encoder, batch, arguments.steps)
        print(f"batch {batch}: {batch / seconds:.0f} frames/s, median step {1000 * seconds:.1f} ms")


def step_seconds(encoder: vpt_gym.VPTEncoder, batch: int, steps: int) -> float:
    """Median time of one step, after the ring has wrapped once."""
    frames = np.random.default_rng(0).integers(0, 256, (batch, 128, 128, 3), dtype=np.uint8)
    stream = encoder.stream(batch)
    first = np.zeros(batch, np.bool_)
    for _ in range(130):
        stream.step(frames, first)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        stream.step(frames, first).cpu()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
