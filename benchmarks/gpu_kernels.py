"""How near the GPU path is to the GPU: the convolution ceiling, and each kernel beside torch's operators.

    python benchmarks/gpu_kernels.py
    python benchmarks/gpu_kernels.py --frames 1 --precision float16

Torch's operators run as they are and through torch.compile. Before anything is timed, every kernel's result is compared with
theirs; a wrong one ends the run. Each candidate is a CUDA graph of several calls, so that no launch from Python is timed;
candidates take turns, and times are medians of a call. GB/s counts what the kernel must read and write, for all three: the
speed at which the job is done, and only for the kernel the traffic that it causes. Tensors of few frames lie in the GPU's
cache. Sizes are those of the 2x network. Needs an NVIDIA GPU of compute capability 8.0 or more, and Triton.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from shared import facts, folder, machine_words, markdown, parser, save
from torch import Tensor

from vpt_gym.config import PRESETS, RELATION_RANK
from vpt_gym.nn import Memory
from vpt_gym.nn import attention as eager
from vpt_gym.nn.cuda import attention, kernels, unavailable
from vpt_gym.nn.state import Window

CONFIG = PRESETS["2x"]
EPS = 1e-5
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-4}
"""Largest difference from torch's operators, of the largest number: a few roundings, on either side in another order."""

Way = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Job:
    """One kernel and what does the same.

    Attributes:
        name: what is done, and on which sizes.
        inputs: what either way is called with; it may write to them.
        kernel: ours.
        torch: through torch's operators. Where the kernel gives the parts of the moments, this gives variance and mean.
        moved: bytes that the kernel reads and writes.
    """

    name: str
    inputs: tuple[Tensor, ...]
    kernel: Way
    torch: Way
    moved: int


def main() -> None:
    options = parser("gpu_kernels", __doc__)
    options.add_argument("--frames", type=int, default=256, help="frames, or rows, in a batch (default: %(default)s)")
    options.add_argument("--precision", choices=DTYPES, default="bfloat16", help="(default: %(default)s)")
    options.add_argument("--device", default="cuda", help="cuda, cuda:1 (default: %(default)s)")
    options.add_argument(
        "--rounds", type=int, default=20, help="turns that each candidate takes (default: %(default)s)"
    )
    options.add_argument("--calls", type=int, default=20, help="calls timed in one turn (default: %(default)s)")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    reason = unavailable(device)
    if reason is not None:
        sys.exit(f"Nothing was measured, because Triton's kernels cannot run here: {reason}.")
    out = folder("gpu_kernels", arguments.out)
    record = facts(device, arguments)
    dtype = DTYPES[arguments.precision]
    torch.backends.cudnn.benchmark = True
    # Float32 means IEEE arithmetic, as it does for the encoder.
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad(), torch.cuda.device(device):
        record["convolutions"] = convolutions(arguments, device, dtype)
        record["kernels"] = [measure(job, arguments, dtype) for job in jobs(arguments.frames, device, dtype)]
    print(f"{arguments.precision}, {arguments.frames} frames. {machine_words(record)}\n")
    rows = [["3x3 convolution, NHWC, cuDNN", "ms", "TFLOP/s"]]
    rows += [[each["name"], f"{1e3 * each['seconds']:.3f}", f"{each['tflops']:.0f}"] for each in record["convolutions"]]
    print(markdown(rows, left=(0,)))
    rows = [["Kernel", "error", "ms", "torch, ms", "torch.compile, ms", "GB/s", "torch, GB/s", "torch.compile, GB/s"]]
    for each in record["kernels"]:
        seconds = [each["seconds"][way] for way in ("kernel", "torch", "torch.compile")]
        speeds = [f"{each['moved_bytes'] / value / 1e9:.0f}" for value in seconds]
        rows.append([each["name"], f"{each['error']:.1e}", *(f"{1e3 * value:.4f}" for value in seconds), *speeds])
    print(f"\n{markdown(rows, left=(0,))}")
    save(out, "gpu_kernels", record)


def convolutions(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The ceiling: plain convolutions of the network's shapes."""
    found = []
    for channels, side in ((128, 64), (256, 32), (256, 16)):
        x_nchw = _random(arguments.frames, side, side, channels).to(device, dtype).permute(0, 3, 1, 2)
        weight = _random(channels, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        convolve = _bound(lambda *inputs: (F.conv2d(*inputs, padding=1),), (x_nchw, weight))
        seconds = timed({"cudnn": convolve}, arguments)["cudnn"]
        flops = 2 * 9 * channels**2 * side**2 * arguments.frames
        name = f"{channels} channels, {side}x{side}"
        found.append({"name": name, "seconds": seconds, "flops": flops, "tflops": flops / seconds / 1e12})
    return found


def jobs(frames: int, device: torch.device, dtype: torch.dtype, *, channels: int = 128, side: int = 64) -> list[Job]:
    """The first stack's kernels, whose tensors are the largest, and one block's attention."""
    pixels_nhwc = torch.arange(frames * 4 * side**2 * 3, device=device).remainder(251).to(torch.uint8)
    pixels_nhwc = pixels_nhwc.view(frames, 2 * side, 2 * side, 3)
    wide_nhwc = _random(frames, 2 * side, 2 * side, channels).to(device, dtype)
    x_nhwc, y_nhwc = (_random(frames, side, side, channels).to(device, dtype) for _ in range(2))
    scale, shift = (_random(channels).to(device, dtype) for _ in range(2))
    moments_nkt = kernels.relu_moments(x_nhwc)
    where = f"{channels} channels, {side}x{side}"

    def numbers(pixels_nhwc: Tensor) -> tuple[Tensor, ...]:
        return (pixels_nhwc.float().div(255).to(dtype),)

    def pool(x_nhwc: Tensor, bias_c: Tensor) -> tuple[Tensor, ...]:
        y_nchw = F.max_pool2d((x_nhwc + bias_c).permute(0, 3, 1, 2), 3, 2, 1).relu()
        return y_nchw.permute(0, 2, 3, 1), _moments(y_nchw)

    def norm(x_nhwc: Tensor, *, relu: bool) -> tuple[Tensor, ...]:
        x_nchw = x_nhwc.permute(0, 3, 1, 2)
        y_nchw = F.group_norm(x_nchw.relu() if relu else x_nchw, 1, scale, shift, EPS)
        return (y_nchw.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),)

    def residual(x_nhwc: Tensor, y_nhwc: Tensor) -> tuple[Tensor, ...]:
        x_nhwc.add_(y_nhwc.relu())
        return x_nhwc, _moments(x_nhwc)

    return [
        Job(
            "pixels to padded numbers",
            (pixels_nhwc,),
            lambda pixels_nhwc: (kernels.frames_to_nhwc(pixels_nhwc, dtype)[..., :3],),
            numbers,
            pixels_nhwc.nbytes + pixels_nhwc.nbytes // 3 * 16,
        ),
        Job(
            f"bias, pool, ReLU, moments: to {where}",
            (wide_nhwc, shift),
            kernels.pool_relu,
            pool,
            wide_nhwc.nbytes + x_nhwc.nbytes,
        ),
        Job(
            f"moments of ReLU: {where}",
            (x_nhwc,),
            lambda x_nhwc: (kernels.relu_moments(x_nhwc),),
            lambda x_nhwc: (_moments(x_nhwc.relu()),),
            x_nhwc.nbytes,
        ),
        Job(
            f"moments of ReLU, then its norm: {where}",
            (x_nhwc,),
            lambda x_nhwc: (kernels.normalise(x_nhwc, kernels.relu_moments(x_nhwc), scale, shift, eps=EPS, relu=True),),
            lambda x_nhwc: norm(x_nhwc, relu=True),
            3 * x_nhwc.nbytes,
        ),
        Job(
            f"norm of ReLU, moments known: {where}",
            (x_nhwc,),
            lambda x_nhwc: (kernels.normalise(x_nhwc, moments_nkt, scale, shift, eps=EPS, relu=True),),
            lambda x_nhwc: norm(x_nhwc, relu=True),
            2 * x_nhwc.nbytes,
        ),
        Job(
            f"ReLU, addition, moments: {where}",
            (x_nhwc, y_nhwc),
            lambda x_nhwc, y_nhwc: (x_nhwc, kernels.add_relu_(x_nhwc, y_nhwc)),
            residual,
            3 * x_nhwc.nbytes,
        ),
        _attention(frames, device, dtype),
    ]


def _attention(rows: int, device: torch.device, dtype: torch.dtype) -> Job:
    """Every slot of the ring is seen."""
    memory = Memory.empty(CONFIG, rows, blocks=1, device=device, dtype=dtype)
    memory.seen_b.fill_(memory.slots)
    window = Window.of(memory, torch.zeros((rows, 1), device=device, dtype=torch.bool), None, written_first=True)
    heads, size = CONFIG.heads, CONFIG.head_size
    new = (_random(rows, heads, size).to(device, dtype) for _ in range(3))
    relation = _random(rows, heads, RELATION_RANK).to(device, dtype), _random(RELATION_RANK, memory.slots)
    rings = (_random(rows, heads, memory.slots, size).to(device, dtype) for _ in range(2))
    inputs = (*new, relation[0], relation[1].to(device, dtype), *rings)
    return Job(
        f"one step over the ring: {heads} heads of {size}, {memory.slots} slots",
        inputs,
        lambda *inputs: (attention.attend_single(*inputs, window),),
        lambda *inputs: (eager.attend_single(*inputs, window),),
        2 * inputs[-1].nbytes,
    )


def measure(job: Job, arguments: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """One row of the table, once the results agree."""
    error = difference(job)
    if not error <= TOLERANCE[dtype]:
        sys.exit(f"{job.name}: differs from torch's operators by {error:.1e} of the largest number; nothing is timed.")
    ways = {"kernel": job.kernel, "torch": job.torch, "torch.compile": torch.compile(job.torch, dynamic=False)}
    seconds = timed({name: _bound(way, job.inputs) for name, way in ways.items()}, arguments)
    return {"name": job.name, "error": error, "moved_bytes": job.moved, "seconds": seconds}


def difference(job: Job) -> float:
    """Between the kernel's results and torch's, of the largest number."""
    worst = 0.0
    pairs = zip(_bound(job.kernel, job.inputs)(), _bound(job.torch, job.inputs)(), strict=True)
    for found, wanted in pairs:
        if found.shape != wanted.shape:  # the parts of the moments
            count, mean, squares = found.double().unbind(1)
            centre = (count * mean).sum(1) / count.sum(1)
            variance = (squares + count * (mean - centre[:, None]) ** 2).sum(1) / count.sum(1)
            found = torch.stack([variance, centre], dim=1)  # noqa: PLW2901 - the same numbers in torch's form
        worst = max(worst, float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()))
    return worst


def timed(candidates: Mapping[str, Callable[[], object]], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one call of each: medians over turns."""
    graphs = {name: _graph(candidate, arguments.calls) for name, candidate in candidates.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(arguments.rounds + 1):
        for name, graph in graphs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if turn:  # the first one warms up
                milliseconds[name].append(start.elapsed_time(end))
    return {name: median(values) / 1e3 / arguments.calls for name, values in milliseconds.items()}


def _graph(candidate: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    for _ in range(3):
        candidate()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            candidate()
    return graph


def _bound(way: Way, inputs: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """A call on copies of its own, in which it may write."""
    own = tuple(each.clone() for each in inputs)
    return lambda: way(*own)


def _moments(x: Tensor) -> Tensor:
    """[N, ...] -> variance and mean, float32 [N, 2]."""
    return torch.stack(torch.var_mean(x.float().flatten(1), dim=1, correction=0), dim=1)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) + 0.3


if __name__ == "__main__":
    main()
