"""One frozen network with the choice of its layer: what encoders, streams and MineStudio's policies compute latents with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vpt_gym.encoders.forked import refuse_lost_cuda
from vpt_gym.encoders.inputs import as_tensor
from vpt_gym.encoders.protocol import Frames
from vpt_gym.errors import NonFiniteLatent
from vpt_gym.latents import LatentChoice
from vpt_gym.nn import Memory, VPTNet
from vpt_gym.nn.cuda import StepGraphs
from vpt_gym.precision import arithmetic, memory_dtype

__all__ = ["ROWS_PER_CHUNK", "LatentNetwork", "check_finite", "non_finite"]

FRAMES_PER_CHUNK: Final = 256
"""Frames, over all rows, of one piece of a long sequence."""

ROWS_PER_CHUNK: Final = 64
"""Rows that are remembered side by side where all of a sequence is at hand: a 2x network keeps 8 MB of each in float32."""


@dataclass(frozen=True, eq=False)
class LatentNetwork:
    """A network, which of its layers is the latent, and what it computes in. Holds no memory: it is handed one.

    Attributes:
        net: the weights, frozen.
        choice: of the layer.
        precision: a key of `vpt_gym.precision.DTYPES`.
    """

    net: VPTNet
    choice: LatentChoice
    precision: str

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.net.device

    @property
    def frame_size(self) -> int:
        """Side in pixels of the frames that it reads."""
        return self.net.config.frame_size

    def arithmetic(self) -> AbstractContextManager[None]:
        """torch's modes and switches as the network needs them, whatever the caller has set."""
        return arithmetic(self.device, self.precision)

    def memory(self, rows: int) -> Memory:
        """Memory of `rows` episodes that have seen nothing; raises VPTGymError in a forked child that lost CUDA."""
        refuse_lost_cuda(self.device)
        with self.arithmetic():
            return Memory.empty(
                self.net.config,
                rows,
                blocks=self.choice.blocks,
                device=self.device,
                dtype=memory_dtype(self.precision),
            )

    def graphs(self, memory: Memory) -> StepGraphs | None:
        """What steps a memory on a CUDA GPU; None elsewhere."""
        return StepGraphs(self.net, memory, self.choice.layers) if self.device.type == "cuda" else None

    def run(
        self,
        frames: Frames,
        first_bt: Tensor,
        memory: Memory,
        *,
        rows_b: Tensor | None = None,
        goals_bgc: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Runs T frames of B rows; arguments and memory as for `VPTNet.forward`.

        Args:
            frames: uint8 [B, T, H, W, 3], checked, of any height and width, on any device.
            first_bt: bool [B, T].
            memory: of T frames or more.
            rows_b: int64 [B], or None.
            goals_bgc: [B, G, hidden_size], or None.

        Returns:
            float32 [B, T, size] on the network's device, [B*G, T, size] with goals; and the memory to go on from.

        Raises:
            NonFiniteLatent: a latent is NaN or infinite. After a single frame, the memory handed in stays good.
        """
        frames_bthwc = as_tensor(frames, self.frame_size).to(self.device)
        with self.arithmetic():
            outputs, after = self.net(
                frames_bthwc,
                first_bt.to(self.device),
                memory,
                layers=self.choice.layers,
                rows_b=None if rows_b is None else rows_b.to(self.device),
                goals_bgc=goals_bgc,
            )
            latents_btd = self.choice.join(outputs)
        check_finite(latents_btd, rows_b, self.precision)
        return latents_btd, after

    def pieces(self, frames: Frames, first_bt: Tensor, memory: Memory) -> Iterator[Tensor]:
        """Runs sequences of any length in pieces, and moves the memory, of as many rows, along.

        Args:
            frames: uint8 [B, T, H, W, 3], checked.
            first_bt: bool [B, T].
            memory: of B rows; moved on with every piece.

        Yields:
            float32 [B, t, size], piece after piece, T frames in all.
        """
        count = frames.shape[1]
        length = max(1, min(self.net.config.memory, FRAMES_PER_CHUNK // len(frames)))
        for start in range(0, count, length):
            piece = slice(start, start + length)
            latents_btd, after = self.run(frames[:, piece], first_bt[:, piece], memory)
            with self.arithmetic():
                memory.move_to(after)
            yield latents_btd


def check_finite(latents_bd: Tensor, rows_b: Tensor | None, precision: str) -> None:
    """Raises NonFiniteLatent unless all latents [B, ...] are finite; `rows_b` says which rows these are."""
    finite_b = latents_bd.isfinite().flatten(1).all(dim=1)
    if bool(finite_b.all()):
        return
    bad_b = (~finite_b).nonzero()[:, 0].cpu()
    raise non_finite((bad_b if rows_b is None else rows_b.cpu()[bad_b]).tolist(), precision)


def non_finite(rows: list[int], precision: str) -> NonFiniteLatent:
    """The error for latents of these rows."""
    remedy = "use precision='float32'" if precision in {"float16", "bfloat16"} else "look at the weights"
    return NonFiniteLatent(
        f"The latents of rows {rows} are NaN or infinite in {precision}: {remedy}, or start these rows anew with first=True.",
        rows,
    )
