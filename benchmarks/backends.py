"""Which way of computing each network gets here, and how fast a step is beside MineStudio's in eager float32, in one run.

    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=2000 python benchmarks/backends.py --presets tiny,1x,2x --batch 1,2,4,8,64

As on a CPU with AVX2 alone: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 before it. All take
turns, step by step; a ratio is the median over the turns of MineStudio's time divided by ours, and `best` that of the shortest
times. `of peak` is the nominal GFLOP/s of the shortest step over those of the fastest plain convolution. Needs MineStudio.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from shared import facts, folder, machine_words, markdown, parser, save

from vpt_gym import load_encoder
from vpt_gym.bench.candidates import minestudio_network, of_encoder, of_minestudio
from vpt_gym.bench.limits import SHAPES, convolution, flops_per_frame
from vpt_gym.bench.pictures import load_pictures
from vpt_gym.config import PRESETS

TURNS = 5
"""At least so many, after one that is not counted."""


def main() -> None:
    options = parser("backends", __doc__)
    options.add_argument("--presets", default="tiny,1x,2x", help="sizes of the network (default: %(default)s)")
    options.add_argument("--precisions", default="float32,bfloat16", help="(default: %(default)s)")
    options.add_argument("--batch", default="1,2,4,8,64", help="environments in a step (default: %(default)s)")
    options.add_argument("--backend", default="auto", help="as for load_encoder (default: %(default)s)")
    options.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    options.add_argument("--seconds", type=float, default=3, help="for each size and batch (default: %(default)s)")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    out = folder("backends", arguments.out)
    record = facts(device, arguments) | {"rows": []}
    for preset in arguments.presets.split(","):
        record["rows"] += measure(preset, arguments, device)
    rows = [["Network", "Precision", "Batch", "ms", "MineStudio, ms", "x MineStudio", "best", "of peak", "Backend"]]
    rows += [
        [
            row["preset"], row["precision"], str(row["batch"]), f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['rival']:.1f}",
            f"{row['ratio']:.2f}", f"{row['best']:.2f}", f"{row['of_peak']:.0%}", row["backend"],
        ]
        for row in record["rows"]
    ]  # fmt: skip
    print(f"{machine_words(record)} {torch.backends.cpu.get_cpu_capability()}.\n")
    print(markdown(rows, left=(0, 1, 8)))
    save(out, "backends", record)


def measure(preset: str, arguments: Any, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one size."""
    pictures = load_pictures((), PRESETS[preset].frame_size)
    encoders = {
        precision: load_encoder(f"random:{preset}", device=str(device), precision=precision, backend=arguments.backend)
        for precision in arguments.precisions.split(",")
    }
    rival = of_minestudio(minestudio_network(PRESETS[preset], device), device, autocast=False)
    flops = flops_per_frame(next(iter(encoders.values())))
    assert flops is not None
    peak_flops = [8 * 2 * 9 * channels**2 * size**2 for channels, size in SHAPES]
    rows = []
    for batch in map(int, arguments.batch.split(",")):
        steps = {name: of_encoder(encoder).open(batch, pictures)[0] for name, encoder in encoders.items()}
        steps["MineStudio"] = rival.open(batch, pictures)[0]
        steps |= {str(shape): convolution("float32", *shape, device) for shape in SHAPES}
        seconds = in_turns(steps, arguments.seconds)
        peak = max(flops_ / min(seconds[str(shape)]) for flops_, shape in zip(peak_flops, SHAPES, strict=True))
        for precision, encoder in encoders.items():
            rows.append(
                {
                    "preset": preset,
                    "precision": precision,
                    "batch": batch,
                    "backend": encoder.backend,
                    "seconds": median(seconds[precision]),
                    "rival": median(seconds["MineStudio"]),
                    "ratio": median(b / a for a, b in zip(seconds[precision], seconds["MineStudio"], strict=True)),
                    "best": min(seconds["MineStudio"]) / min(seconds[precision]),
                    "of_peak": batch * flops / min(seconds[precision]) / peak,
                }
            )
    return rows


def in_turns(steps: dict[str, Any], seconds: float) -> dict[str, list[float]]:
    """What each step took, turn by turn."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    end = None
    turn = 0
    while end is None or turn <= TURNS or time.perf_counter() < end:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                taken[name].append(time.perf_counter() - start)
        if end is None:
            end = time.perf_counter() + seconds
        turn += 1
    return taken


if __name__ == "__main__":
    main()
