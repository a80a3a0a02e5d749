"""The network's memory as a value: a ring of keys and values per row, and where each row stands in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpt_gym.config import VPTConfig

__all__ = ["Memory", "Window"]


@dataclass
class Memory:
    """What the attention blocks remember of B independent episodes.

    Each row writes its newest frame over its oldest one, so nothing is ever moved or concatenated. Rows keep their own
    position: a row that is not stepped does not move. A new episode does not clear the ring, it only makes `seen_b` forget it.

    One row of a memory of 4, through frames A to E and then X, which opens an episode:

        ring  A . . .   slot 0, seen 1      A sees A
        ring  A B C D   slot 3, seen 4      D sees A B C D
        ring  E B C D   slot 0, seen 4      E is written over A, which has become too old, and sees B C D E
        ring  E X C D   slot 1, seen 1      X sees X: the others are still there, and nobody looks at them

    Attributes:
        keys_lbhmd: [blocks, B, heads, memory, head size], in the precision that was asked for.
        values_lbhmd: the same for values.
        slot_b: int64 [B], the slot that holds each row's newest frame.
        seen_b: int64 [B], how many frames of the running episode the ring holds, 0 to memory.
    """

    keys_lbhmd: Tensor
    values_lbhmd: Tensor
    slot_b: Tensor
    seen_b: Tensor

    @classmethod
    def empty(cls, config: VPTConfig, rows: int, *, blocks: int, device: torch.device, dtype: torch.dtype) -> Memory:
        """Memory of `rows` episodes that have seen nothing, for the first `blocks` blocks of the network."""
        shape = (blocks, rows, config.heads, config.memory, config.head_size)
        return cls(
            keys_lbhmd=torch.zeros(shape, device=device, dtype=dtype),
            values_lbhmd=torch.zeros(shape, device=device, dtype=dtype),
            slot_b=torch.zeros(rows, device=device, dtype=torch.int64),
            seen_b=torch.zeros(rows, device=device, dtype=torch.int64),
        )

    @property
    def slots(self) -> int:
        """Frames that a row can hold."""
        return self.keys_lbhmd.shape[3]

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by name, not copied."""
        return dict(vars(self))

    def detach(self) -> Memory:
        """The same numbers, through which no gradient goes back: where truncated backpropagation cuts."""
        return Memory(**{name: tensor.detach() for name, tensor in vars(self).items()})

    def of_rows(self, rows_b: Tensor) -> Memory:
        """A copy of some rows, as a memory of their own."""
        return Memory(
            self.keys_lbhmd[:, rows_b], self.values_lbhmd[:, rows_b], self.slot_b[rows_b], self.seen_b[rows_b]
        )

    @classmethod
    def joined(cls, parts: Sequence[Memory]) -> Memory:
        """The rows of several memories, one after another."""
        axes = {"keys_lbhmd": 1, "values_lbhmd": 1, "slot_b": 0, "seen_b": 0}
        return cls(**{name: torch.cat([getattr(part, name) for part in parts], axis) for name, axis in axes.items()})

    def put_rows(self, rows_b: Tensor, part: Memory) -> None:
        """Puts `part`, of as many rows, in the place of some rows."""
        self.keys_lbhmd[:, rows_b], self.values_lbhmd[:, rows_b] = part.keys_lbhmd, part.values_lbhmd
        self.slot_b[rows_b], self.seen_b[rows_b] = part.slot_b, part.seen_b

    def move_to(self, after: Memory) -> None:
        """Takes over the places of a memory that shares this one's ring, in place: a CUDA graph keeps its tensors."""
        assert after.keys_lbhmd is self.keys_lbhmd
        self.slot_b.copy_(after.slot_b)
        self.seen_b.copy_(after.seen_b)


@dataclass(frozen=True)
class Window:
    """Which remembered and which new frames T new frames of B rows may see; the same for every block.

    Attributes:
        rows_b: int64 [B], the rows of the memory that are stepped, or None for all of them in order.
        slots_bt: int64 [B, T], the slot that each new frame is written to.
        seen_b: int64 [B], `Memory.seen_b` after the new frames.
        age_btk: int64 [B, T, K], how many frames before the query the key was, clamped to the ring.
        visible_btk: bool [B, T, K], whether the query may see the key.
        written_first: whether the new frame is written into the ring, over its oldest slot, before it attends.

    The K keys are the ring's slots, the new frame among them, when it is written first; otherwise the ring's slots as they
    were, followed by the T new frames.
    """

    rows_b: Tensor | None
    slots_bt: Tensor
    seen_b: Tensor
    age_btk: Tensor
    visible_btk: Tensor
    written_first: bool

    @classmethod
    def of(cls, memory: Memory, first_bt: Tensor, rows_b: Tensor | None, *, written_first: bool) -> Window:
        """The window of T new frames, 1 <= T <= memory slots, T = 1 when written first; `first_bt` is bool [B, T]."""
        slots = memory.slots
        count = first_bt.shape[1]
        assert 1 <= count <= (1 if written_first else slots), count
        slot_b = memory.slot_b if rows_b is None else memory.slot_b[rows_b]
        seen_b = memory.seen_b if rows_b is None else memory.seen_b[rows_b]
        time_t = torch.arange(count, device=slot_b.device)
        ring_m = torch.arange(slots, device=slot_b.device)
        slots_bt = (slot_b[:, None] + 1 + time_t) % slots
        # Frames since the episode opened, the frame itself included: counts on from the memory until a `first` restarts it.
        opened_bt = torch.where(first_bt, time_t, -1).cummax(dim=1).values
        length_bt = torch.where(opened_bt < 0, seen_b[:, None] + time_t + 1, time_t - opened_bt + 1).clamp_(max=slots)
        if written_first:
            age_btk = (slots_bt[:, :, None] - ring_m) % slots
        else:
            ring_age_bm = (slot_b[:, None] - ring_m) % slots
            ring_age_btm = ring_age_bm[:, None, :] + 1 + time_t[None, :, None]
            new_age_tt = time_t[:, None] - time_t[None, :]
            age_btk = torch.cat([ring_age_btm, new_age_tt.expand(len(slot_b), -1, -1)], dim=2)
        # A key is visible when it is not in the future, is at most `memory - 1` frames old, and belongs to the episode:
        # all three are one comparison with the episode's length so far.
        visible_btk = (age_btk >= 0) & (age_btk < length_bt[:, :, None])
        return cls(rows_b, slots_bt, length_bt[:, -1], age_btk.clamp_(0, slots - 1), visible_btk, written_first)

    def after(self, memory: Memory, keys_lbhmd: Tensor, values_lbhmd: Tensor) -> Memory:
        """The memory behind the new frames, on the rings given; the one handed in stays where it stands."""
        slot_b, seen_b = self.slots_bt[:, -1], self.seen_b
        if self.rows_b is not None:
            slot_b = memory.slot_b.index_copy(0, self.rows_b, slot_b)
            seen_b = memory.seen_b.index_copy(0, self.rows_b, seen_b)
        return Memory(keys_lbhmd, values_lbhmd, slot_b, seen_b)
