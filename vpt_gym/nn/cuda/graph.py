"""A stream's step as one CUDA graph per batch size: some hundred kernels, started by a single call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from vpt_gym.nn.net import VPTNet
from vpt_gym.nn.state import Memory

__all__ = ["Capture", "CudaCapture", "StepGraphs"]

logger = logging.getLogger("vpt_gym")

Capture = Callable[[Callable[[], None], Callable[[], None]], Callable[[], None]]
"""Takes a warm-up, which it runs as often as it needs, and a computation on fixed tensors, which it calls once, without
effect; gives back what does the computation anew each time, on the same tensors."""

_SIZES: Final = 16
"""Batch sizes of one stream that get a graph. Each keeps its activations; who steps many subsets of many rows seldom repeats
a size, and a step of the hundredth size loses less by being launched kernel by kernel than the GPU would by keeping it."""

_capturing = threading.Lock()
"""Only one capture may be under way in a process."""


class CudaCapture:
    """The `Capture` of a GPU, for graphs that run one after the other: they share one pool of memory.

    Sharing is safe in any order of replays because nothing is left in the pool from one to the next: inputs lie outside, and
    the output is copied before anything else can run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
        current = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        # The last context hands the thread its own stream back even where the end of a failed capture raises.
        with _capturing, torch.cuda.device(self._device), torch.cuda.stream(current):
            self._stream.wait_stream(current)
            try:
                # Libraries set themselves up by stream and by thread, and cuDNN may time its algorithms; none of this can
                # happen while a graph is captured.
                with torch.cuda.stream(self._stream):
                    warm_up()
            finally:
                current.wait_stream(self._stream)
            # What other threads do on this GPU in the meantime is none of the graph's business.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                run()
        replay: Callable[[], None] = graph.replay
        return replay


class _Inputs:
    """A step's inputs at a fixed place on the device, in one piece, so that one copy brings them there.

    Attributes:
        frames_nhwc: uint8 [n, size, size, 3].
        rows_b: int64 [n].
        first_b: bool [n].
    """

    def __init__(self, count: int, size: int, device: torch.device) -> None:
        self._count, self._size = count, size
        self._bytes = torch.empty(count * (3 * size**2 + 8 + 1), device=device, dtype=torch.uint8)
        self.frames_nhwc, self.rows_b, self.first_b = self._parts(self._bytes)

    def _parts(self, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = self._count * 3 * self._size**2
        flags = pixels + self._count * 8
        frames_nhwc = buffer[:pixels].view(self._count, self._size, self._size, 3)
        return frames_nhwc, buffer[pixels:flags].view(torch.int64), buffer[flags:].view(torch.bool)

    def upload(self, frames_nhwc: Tensor, first_b: Tensor, rows_b: Tensor) -> None:
        """Starts the copy to the device; the caller's tensors may change as soon as this returns."""
        # Memory that the GPU can fetch by itself. torch hands such a block to nobody else before its copy is done, so a new
        # one each time, which it has in stock after the first, needs no event of ours.
        staged = torch.empty(self._bytes.shape, dtype=torch.uint8, device="cpu", pin_memory=self._bytes.is_cuda)
        staged_frames_nhwc, staged_rows_b, staged_first_b = self._parts(staged)
        staged_rows_b.copy_(rows_b)
        staged_first_b.copy_(first_b)
        start = 0
        if frames_nhwc.is_cuda:
            self.frames_nhwc.copy_(frames_nhwc, non_blocking=True)
            start = self.frames_nhwc.numel()
        else:
            staged_frames_nhwc.copy_(frames_nhwc)
        self._bytes[start:].copy_(staged[start:], non_blocking=True)


@dataclass(frozen=True)
class _Graph:
    inputs: _Inputs
    replay: Callable[[], None]
    output_bd: Tensor


class StepGraphs:
    """Steps the rows of one memory; from a batch size's second step on by a graph of it, which any rows of that number share.

    What cannot be captured is computed all the same, kernel by kernel; the log says so once. A graph reads and writes the
    tensors that it was captured with: the memory's may be written to by others between steps, but never replaced. To be called
    with the modes of torch that the network computes in, always the same ones, and from one thread at a time.

    Args:
        net: frozen, on the memory's device.
        memory: moved on by every step.
        layers: names of the layers whose outputs make up a latent, side by side.
        capture: how a computation becomes a graph; by default, CUDA's way.
    """

    def __init__(self, net: VPTNet, memory: Memory, layers: Sequence[str], *, capture: Capture | None = None) -> None:
        self._net = net
        self._memory = memory
        self._layers = tuple(layers)
        self._device = memory.slot_b.device
        self._capture: Capture | None = CudaCapture(self._device) if capture is None else capture
        self._graphs: dict[int, _Graph] = {}
        self._stepped: set[int] = set()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that have a graph, in the order in which they got it."""
        return tuple(self._graphs)

    def step(self, frames_nhwc: Tensor, first_b: Tensor, rows_b: Tensor | None) -> Tensor:
        """Moves n rows of the memory on by one frame each.

        Args:
            frames_nhwc: uint8 [n, frame_size, frame_size, 3], on any device.
            first_b: bool [n] on the CPU, True where a frame opens an episode.
            rows_b: int64 [n] on the CPU, distinct rows of the memory, or None for all of them in order.

        Returns:
            float32 [n, layers x hidden_size] on the device, a fresh tensor.
        """
        count = len(frames_nhwc)
        if rows_b is None:
            rows_b = torch.arange(count, device="cpu")
        graph = self._graphs.get(count)
        inputs = _Inputs(count, self._net.config.frame_size, self._device) if graph is None else graph.inputs
        inputs.upload(frames_nhwc, first_b, rows_b)
        if graph is None and count in self._stepped and len(self._graphs) < _SIZES:
            graph = self._captured(inputs)
        if graph is None:
            latents_bd = self._forward(inputs, self._memory)
            self._stepped.add(count)
            return latents_bd
        graph.replay()
        return graph.output_bd.clone()

    def _forward(self, inputs: _Inputs, memory: Memory) -> Tensor:
        outputs_btc, after = self._net(
            inputs.frames_nhwc[:, None], inputs.first_b[:, None], memory, layers=self._layers, rows_b=inputs.rows_b
        )
        memory.move_to(after)
        return torch.cat([output_btc[:, 0] for output_btc in outputs_btc], dim=1).float()

    def _captured(self, inputs: _Inputs) -> _Graph | None:
        """A graph of one step on `inputs`, which already hold what the step is about to compute."""
        if self._capture is None:
            return None
        memory = self._memory
        outputs: list[Tensor] = []

        def warm_up() -> None:
            # Moves positions that nobody looks at. It writes keys and values into the real ring, but only into the slot
            # after each row's newest, whose frame no later step can see: the step itself writes there first.
            self._forward(inputs, replace(memory, slot_b=memory.slot_b.clone(), seen_b=memory.seen_b.clone()))

        def run() -> None:
            outputs.append(self._forward(inputs, memory))

        try:
            replay = self._capture(warm_up, run)
        except RuntimeError as error:
            # Whatever half a capture has left behind in the pool, nothing uses it again.
            self._capture = None
            self._graphs.clear()
            words = " ".join(str(error).split())[:200]
            logger.warning("Steps run without CUDA graphs, which is slower: capturing one failed (%s).", words)
            return None
        return self._graphs.setdefault(inputs.frames_nhwc.shape[0], _Graph(inputs, replay, outputs[0]))
