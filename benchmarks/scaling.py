"""Frames a second against the number of environments, and the time of a step along a long episode: Markdown, JSON and a plot.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/scaling.py --encoder random:2x --batch 1,8,64,256,1024 --episode 10000

Batches: sweeps up and down the list, so that a drift of the machine is not mistaken for a trend; a fresh stream each time, one
at a time in memory. Episode: one environment that never resets. Every fifth step a second environment, which opens an episode
every 100 steps, takes a step too: what slows both down is the machine, what slows only the first down would be the episode.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from shared import encoder_words, facts, folder, load, machine_words, markdown, parser, save

from vpt_gym.bench.candidates import frames_in_turn, of_encoder
from vpt_gym.bench.pictures import Pictures
from vpt_gym.bench.plan import BATCHES
from vpt_gym.bench.rounds import summary, take_turns
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.running.files import write_atomically

YOUNG_EVERY = 5
YOUNG_EPISODE = 100


def batches(text: str) -> tuple[int, ...]:
    """`8` or `1,8,64`; each once."""
    return BATCHES.check("batch", BATCHES.read(text))


def main() -> None:
    options = parser("scaling", __doc__, encoder=True)
    every = tuple(2**power for power in range(11))
    options.add_argument(
        "--batch", type=batches, default=every, help="environments (default: powers of two, 1 to 1024)"
    )
    options.add_argument("--seconds", type=float, default=5.0, help="measured time of each batch size (default: 5)")
    options.add_argument("--sweeps", type=int, default=2, help="times through the list, back and forth (default: 2)")
    options.add_argument("--episode", type=int, default=10_000, help="steps of the episode (default: 10000)")
    arguments = options.parse_args()
    out = folder("scaling", arguments.out)
    encoder, pictures = load(arguments)
    record = facts(encoder.device, arguments)
    record["encoder"] = encoder_words(encoder)
    record["batches"] = against_batch(encoder, pictures, arguments.batch, arguments.seconds, arguments.sweeps)
    record["episode"] = along_episode(encoder, pictures, arguments.episode)
    print(f"{encoder_words(encoder)}. {machine_words(record)}\n")
    rows = [["Environments", "Frames/s", "Step, ms"]]
    rows += [
        [f"{one['batch']:,}", f"{one['frames_per_second']:,.1f}", f"{one['ms']:,.1f}"] for one in record["batches"]
    ]
    print(markdown(rows))
    print()
    print(markdown(episode_rows(record["episode"])))
    write_atomically(out / "scaling.svg", lambda path: draw(record, path))
    save(out, "scaling", record)


def against_batch(
    encoder: Encoder, pictures: Pictures, sizes: tuple[int, ...], seconds: float, sweeps: int
) -> list[dict[str, Any]]:
    """Median step of each batch size over all sweeps."""
    candidate = of_encoder(encoder)
    medians: dict[int, list[float]] = {size: [] for size in sizes}
    for sweep in range(sweeps):
        for size in sizes if sweep % 2 == 0 else sizes[::-1]:
            print(f"sweep {sweep + 1} of {sweeps}: {size} environments", file=sys.stderr)
            times: dict[str, list[list[float]]] = {}
            step, _ = candidate.open(size, pictures)
            take_turns({"step": (step, seconds / sweeps)}, times)
            del step
            medians[size].append(summary(times["step"])["p50"])
            gc.collect()
    return [
        {
            "batch": size,
            "sweep_medians": times,
            "ms": 1000 * median(times),
            "frames_per_second": size / median(times),
        }
        for size, times in medians.items()
    ]


def along_episode(encoder: Encoder, pictures: Pictures, steps: int) -> dict[str, list[float]]:
    """Seconds of every step of a long episode, and of an environment whose episodes stay short."""
    old, young, next_frames = encoder.stream(1), encoder.stream(1), frames_in_turn(pictures, 1)
    seconds: dict[str, list[float]] = {"old": [], "young": []}
    for step in range(-50, steps):  # the first fifty warm the machine up, in an episode of their own
        opening = step in {-50, 0}
        times = [("old", old, opening)]
        if step % YOUNG_EVERY == 0:
            times.append(("young", young, step % YOUNG_EPISODE == 0))
        for name, stream, first in times:
            start = time.perf_counter()
            stream.step(next_frames(), np.array([first])).cpu()
            if step >= 0:
                seconds[name].append(time.perf_counter() - start)
        if step > 0 and step % 1000 == 0:
            print(f"step {step:,} of {steps:,}", file=sys.stderr)
    return seconds


def episode_rows(seconds: dict[str, list[float]]) -> list[list[str]]:
    """Tenths of the episode, each beside the short episodes of the same time."""
    rows = [["Steps", "Step, ms", "in short episodes, ms", "Ratio"]]
    steps = len(seconds["old"])
    start = 0
    for old, young in zip(np.array_split(seconds["old"], 10), np.array_split(seconds["young"], 10), strict=True):
        ratio = np.median(old) / np.median(young)
        times = [f"{1000 * np.median(part):.2f}" for part in (old, young)]
        rows.append([f"{start + 1:,} to {min(steps, start + len(old)):,}", *times, f"{ratio:.3f}"])
        start += len(old)
    return rows


def draw(record: dict[str, Any], path: Path) -> None:
    """Two panels: frames a second against environments, and the step along the episode."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    sizes = [one["batch"] for one in record["batches"]]
    paces = [one["frames_per_second"] for one in record["batches"]]
    left.plot(sizes, paces, marker="o", color="tab:blue")
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45 if len(sizes) > 6 else 0)
    left.set_ylim(0, 1.1 * max(paces))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.set(xlabel="environments stepped together", ylabel="frames per second", title="Throughput")

    seconds = record["episode"]
    windows = min(100, len(seconds["young"]))
    old = [1000 * np.median(part) for part in np.array_split(seconds["old"], windows)]
    young = [1000 * np.median(part) for part in np.array_split(seconds["young"], windows)]
    at = np.linspace(0, len(seconds["old"]), windows)
    right.plot(at, young, color="tab:orange", label=f"episodes of {YOUNG_EPISODE} steps, beside it")
    right.plot(at, old, color="tab:blue", label="one long episode")
    right.set_ylim(0, 1.4 * max(*old, *young))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.set(xlabel="step of the episode", ylabel="milliseconds, median", title="One environment's step")
    right.legend(loc="upper right", frameon=False)
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{record['encoder']}\n{machine_words(record)}", fontsize=9)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
