"""Proof before speed: a faster way of computing must give what the network as it is defined gives, and then be faster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from vpt_gym.nn.attention import Block
from vpt_gym.nn.net import VPTNet
from vpt_gym.nn.state import Memory, Window

__all__ = ["SIZES", "TOLERANCES", "Trial", "of_blocks", "of_frames"]

SIZES: Final = (1, 2, 4, 8)
"""Frames, or rows of the memory, that a way is tried with."""

TOLERANCES: Final[Mapping[str, float]] = MappingProxyType(
    {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 1.5e-1, "float16": 3e-2}
)
"""By how much of a row's largest number a way may differ from the network as it is defined, by precision.

Some ten times what rounding makes of it in `random:` networks; a kernel that is wrong is off by the numbers themselves."""

FAILURES: Final = (
    RuntimeError, OSError, ImportError, AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
    MemoryError, subprocess.SubprocessError,
)  # fmt: skip
"""What a missing operator or compiler, an old driver, a read-only cache, too large a kernel or a broken installation raise."""

_BUDGET: Final = 1.5
"""Seconds after which no further size is begun: one that was not tried does as the next smaller one does."""

_HOPELESS: Final = 1.5
"""A way that takes so many times as long as the fastest is not tried with more frames."""

_ROUNDS: Final = (3, 12)
_ENOUGH: Final = 0.1
"""Timed runs of a way for one size: at least and at most, and not many more than take so many seconds together."""

_MARGIN: Final = 0.95
"""By how much the network as it is defined must be faster, to be preferred: on a machine with other work to do two times that
differ by less say nothing, and the others were written because they are faster."""


@dataclass
class Trial:
    """What came out of a comparison.

    Attributes:
        seconds: by size, what a run took by each way that was still in it, the network as it is defined (`plain`) first.
        refused: why a way failed its proof.
    """

    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def by_size(self) -> tuple[tuple[int, str], ...]:
        """Up to how many frames which way is the fastest; ways that follow themselves are joined."""
        joined: list[tuple[int, str]] = []
        for size, seconds in self.seconds.items():
            name = min(seconds, key=lambda name: _weighed(name, seconds[name]))
            if joined and joined[-1][1] == name:
                joined.pop()
            joined.append((size, name))
        return tuple(joined)

    def overall(self) -> str:
        """The way that is fastest over all sizes, each of which counts the same."""
        shares: dict[str, float] = {}
        for seconds in self.seconds.values():
            for name in seconds:
                shares[name] = shares.get(name, 0) + _weighed(name, seconds[name]) / min(seconds.values()) - 1
        last = list(self.seconds.values())[-1]
        return min(last, key=lambda name: shares[name])


def _weighed(name: str, seconds: float) -> float:
    return seconds / _MARGIN if name == "plain" else seconds


@dataclass(frozen=True)
class _Way:
    """Something that may be computed by another way.

    Attributes:
        run: what is timed, for so many rows.
        prove: what is compared: [rows, ...].
    """

    run: Callable[[int], object]
    prove: Callable[[int], Tensor]


def of_frames(
    net: VPTNet, precision: str, others: Mapping[str, Callable[[], nn.Module]], *, quick: bool = False
) -> Trial:
    """Compares ways of computing the convolutional half with the network's own.

    Args:
        net: as it is defined.
        precision: decides about the tolerance.
        others: what makes them, by name.
        quick: only the proof, without times.
    """
    size = net.config.frame_size
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (SIZES[-1], size // 8, size // 8, 3)
    coarse_nhwc = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
    frames_nhwc = coarse_nhwc.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2).to(net.device)

    def way(module: nn.Module) -> _Way:
        def run(count: int) -> Tensor:
            vectors: Tensor = module(frames_nhwc[:count])
            return vectors

        return _Way(run, run)

    return _compare(way, net.cnn, others, net.device, TOLERANCES[precision], quick=quick)


def of_blocks(net: VPTNet, precision: str, others: Mapping[str, Callable[[], Block]], *, quick: bool = False) -> Trial:
    """The same for the first block, which stands for all: single frames and pieces, some rows and all, with resets."""
    own = net.blocks[0]
    assert isinstance(own, Block)
    ring = torch.bfloat16 if precision == "bfloat16" else net.dtype

    def way(block: nn.Module) -> _Way:
        assert isinstance(block, Block)
        steps = {count: _Steps(net, count, ring) for count in SIZES}
        return _Way(lambda count: steps[count].step(block), lambda count: steps[count].all(block))

    return _compare(way, own, others, net.device, TOLERANCES[precision], quick=quick)


class _Steps:
    """What one block is given: a memory of some frames, with NaN where nobody may look, and frames to go on with."""

    def __init__(self, net: VPTNet, rows: int, ring: torch.dtype) -> None:
        config, device = net.config, net.device
        generator = torch.Generator("cpu").manual_seed(1)

        def noise(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").to(device, dtype)

        self._seen = min(3, config.memory - 1)
        self._slot = (self._seen + 1) % config.memory
        ring_rhmd = noise(rows, config.heads, config.memory, config.head_size, dtype=ring)
        ring_rhmd[:, :, self._seen + 1 :] = float("nan")
        self._memory = Memory(
            ring_rhmd[None],
            ring_rhmd.flip(3).contiguous()[None],
            torch.full((rows,), self._seen, device=device, dtype=torch.int64),
            torch.full((rows,), self._seen, device=device, dtype=torch.int64),
        )
        self._x_btc = noise(rows, min(3, config.memory), config.hidden_size, dtype=net.dtype)
        self._every_b = torch.arange(rows, device=device).flip(0)
        self._first_b = torch.arange(rows, device=device) % 2 == 0

    def step(self, block: Block) -> Tensor:
        """One frame of every row."""
        return self._run(block, self._x_btc[:, :1], self._first_b[:, None] & False, None)

    def all(self, block: Block) -> Tensor:
        """Outputs, and what was written into the ring, flat: [rows, ...]."""
        x_btc = self._x_btc
        middle_bt = torch.zeros(x_btc.shape[:2], device=x_btc.device, dtype=torch.bool)
        middle_bt[:, x_btc.shape[1] // 2] = self._first_b
        said = [
            self.step(block),
            self._run(block, x_btc[:, :1], self._first_b[:, None], self._every_b),
            self._run(block, x_btc, middle_bt, None),
            *(ring_lrhmd[0, :, :, self._slot] for ring_lrhmd in (self._memory.keys_lbhmd, self._memory.values_lbhmd)),
        ]
        return torch.cat([part.flatten(1).float() for part in said], dim=1)

    def _run(self, block: Block, x_btc: Tensor, first_bt: Tensor, rows_b: Tensor | None) -> Tensor:
        memory = self._memory
        window = Window.of(memory, first_bt, rows_b, written_first=x_btc.shape[1] == 1)
        out_btc: Tensor = block(x_btc, memory.keys_lbhmd[0], memory.values_lbhmd[0], window)[0]
        return out_btc


def _compare(
    way: Callable[[nn.Module], _Way],
    plain: nn.Module,
    others: Mapping[str, Callable[[], nn.Module]],
    device: torch.device,
    tolerance: float,
    *,
    quick: bool,
) -> Trial:
    trial, begun = Trial(), time.perf_counter()
    defined = way(plain)
    ways = {"plain": defined}
    failures: tuple[type[BaseException], ...] = FAILURES
    if device.type == "cuda":
        from vpt_gym.nn.cuda.language import TritonError

        failures = (*FAILURES, TritonError)
    for name, make in others.items():
        try:
            ways[name] = way(make())
        except failures as error:
            trial.refused[name] = _failed(error)
    for size in SIZES:
        # How many sizes are compared at least; whether it is worth going on, the times tell.
        late = len(ways) == 1 or time.perf_counter() - begun > _BUDGET
        if len(trial.seconds) >= (3 if quick else 2) and (quick or late):
            break
        expected = defined.prove(size)
        for name in list(ways):
            if ways[name] is defined:
                continue
            try:
                reason = _unlike(ways[name].prove(size), expected, tolerance)
            except failures as error:
                reason = _failed(error)
            if reason is not None:
                trial.refused[name] = reason
                del ways[name]
                for seconds in trial.seconds.values():
                    seconds.pop(name)
        seconds = dict.fromkeys(ways, 0.0) if quick else _times(ways, size, device)
        trial.seconds[size] = seconds
        for name in list(ways):
            if seconds[name] > _HOPELESS * min(seconds.values()):
                del ways[name]
    return trial


def _times(ways: Mapping[str, _Way], size: int, device: torch.device) -> dict[str, float]:
    """The shortest of some runs by each way, in turns, so that the machine's ups and downs hit all of them."""
    best = dict.fromkeys(ways, float("inf"))
    for round_ in range(_ROUNDS[1]):
        if round_ >= _ROUNDS[0] and round_ * sum(best.values()) > _ENOUGH:
            break
        for name, way in ways.items():
            _wait(device)
            start = time.perf_counter()
            way.run(size)
            _wait(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unlike(found: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """Why one is not the other, row by row; None when it is."""
    if found.shape != expected.shape:
        return f"it gives {list(found.shape)} numbers where {list(expected.shape)} are due"
    found, expected = found.flatten(1).float(), expected.flatten(1).float()
    difference = float(((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max())
    # Written so that NaN is no pass.
    if not difference <= tolerance:
        return (
            f"it differs from the network as it is defined by {difference:.1g} of the largest number, "
            f"and {tolerance:g} is allowed"
        )
    return None


def _failed(error: BaseException) -> str:
    return f"it fails ({' '.join(str(error).split())[:200] or type(error).__name__})"
