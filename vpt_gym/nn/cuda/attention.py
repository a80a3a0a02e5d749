"""One new frame over the ring as one kernel: write its key and value, weigh what the row may see, sum the values."""

# ruff: noqa: N803 - the names of compile-time constants of a kernel are in capitals

from __future__ import annotations

import torch
from torch import Tensor

from vpt_gym.nn.cuda.language import jit, launch, power_of_two, tl
from vpt_gym.nn.state import Window

__all__ = ["attend_ring", "attend_single"]

WARPS = 8
"""A head's keys and its values, 32 KiB each in a 16-bit precision, lie in the registers of 256 threads, 64 numbers of either
in each: both are read at once and nothing is read twice. In float32 they still fit."""


def attend_single(
    query_bhd: Tensor,
    key_bhd: Tensor,
    value_bhd: Tensor,
    mix_bhn: Tensor,
    basis_nm: Tensor,
    keys_rhmd: Tensor,
    values_rhmd: Tensor,
    window: Window,
) -> Tensor:
    """In place of `vpt_gym.nn.attention.attend_single`, with its arguments and result."""
    return attend_ring(
        query_bhd, key_bhd, value_bhd, mix_bhn, basis_nm, keys_rhmd, values_rhmd,
        window.slots_bt[:, 0], window.seen_b, window.rows_b,
    )  # fmt: skip


def attend_ring(
    query_bhd: Tensor,
    key_bhd: Tensor,
    value_bhd: Tensor,
    mix_bhn: Tensor,
    basis_nm: Tensor,
    keys_rhmd: Tensor,
    values_rhmd: Tensor,
    slot_b: Tensor,
    seen_b: Tensor,
    rows_b: Tensor | None,
) -> Tensor:
    """Writes one new frame of each stepped row into the ring, then attends from it to all that the row may see.

    Slots that the row may not see are not read, so that a step costs what the episode has of frames, up to the ring's length.

    Args:
        query_bhd: [B, heads, size]; it, the key, the value and the mix may be parts of one tensor, as long as their last axis
            is in order.
        key_bhd: the new key, the same shape.
        value_bhd: the new value, the same shape.
        mix_bhn: [B, heads, rank], how much of each relation the query wants.
        basis_nm: [rank, memory], what each relation adds for a key of each age.
        keys_rhmd: [rows, heads, memory, size], contiguous, written in place.
        values_rhmd: the same for values.
        slot_b: int64 [B], the slot that the new frame is written to.
        seen_b: int64 [B], how many frames the row may see, the new one included; 1 to memory.
        rows_b: int64 [B], distinct rows of the ring, or None for the first B.

    Returns:
        [B, heads, size] in the precision of the values. All sums and the softmax are taken in float32.
    """
    batch, heads, size = query_bhd.shape
    rank, memory = basis_nm.shape
    assert keys_rhmd.shape == values_rhmd.shape == (len(keys_rhmd), heads, memory, size), keys_rhmd.shape
    assert all(ring.is_contiguous() for ring in (keys_rhmd, values_rhmd, basis_nm)), "the ring must be in one piece"
    assert all(part.stride(2) == 1 for part in (query_bhd, key_bhd, value_bhd, mix_bhn)), (
        "the last axis is not in order"
    )
    mixed_bhd = torch.empty((batch, heads, size), device=query_bhd.device, dtype=values_rhmd.dtype)
    launch(
        _attend, batch * heads, query_bhd,
        query_bhd, key_bhd, value_bhd, mix_bhn, basis_nm, keys_rhmd, values_rhmd,
        slot_b, seen_b, slot_b if rows_b is None else rows_b, mixed_bhd,
        query_bhd.stride(0), query_bhd.stride(1), key_bhd.stride(0), key_bhd.stride(1),
        value_bhd.stride(0), value_bhd.stride(1), mix_bhn.stride(0), mix_bhn.stride(1),
        slot_b.stride(0), seen_b.stride(0), 1 if rows_b is None else rows_b.stride(0), heads,
        ROWS=rows_b is not None, RANK=rank, BLOCK_N=power_of_two(rank), MEMORY=memory, BLOCK_M=power_of_two(memory),
        SIZE=size, BLOCK_D=power_of_two(size), warps=WARPS,
    )  # fmt: skip
    return mixed_bhd


@jit
def _attend(
    query_ptr: tl.tensor, key_ptr: tl.tensor, value_ptr: tl.tensor, mix_ptr: tl.tensor, basis_ptr: tl.tensor,
    keys_ptr: tl.tensor, values_ptr: tl.tensor,
    slot_ptr: tl.tensor, seen_ptr: tl.tensor, rows_ptr: tl.tensor, mixed_ptr: tl.tensor,
    query_b: tl.tensor, query_h: tl.tensor, key_b: tl.tensor, key_h: tl.tensor,
    value_b: tl.tensor, value_h: tl.tensor, mix_b: tl.tensor, mix_h: tl.tensor,
    slot_b: tl.tensor, seen_b: tl.tensor, rows_b: tl.tensor, heads: tl.tensor,
    ROWS: tl.constexpr, RANK: tl.constexpr, BLOCK_N: tl.constexpr, MEMORY: tl.constexpr, BLOCK_M: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(0) % heads
    b = (tl.program_id(0) // heads).to(tl.int64)
    slot = tl.load(slot_ptr + b * slot_b).to(tl.int32)
    seen = tl.load(seen_ptr + b * seen_b).to(tl.int32)
    row = b
    if ROWS:
        row = tl.load(rows_ptr + b * rows_b)

    d = tl.arange(0, BLOCK_D)
    query = tl.load(query_ptr + b * query_b + head * query_h + d, d < SIZE, other=0.0).to(tl.float32)
    new_key = tl.load(key_ptr + b * key_b + head * key_h + d, d < SIZE, other=0.0).to(keys_ptr.dtype.element_ty)
    new_value = tl.load(value_ptr + b * value_b + head * value_h + d, d < SIZE, other=0.0)
    new_value = new_value.to(values_ptr.dtype.element_ty)

    m = tl.arange(0, BLOCK_M)
    age = (slot - m + MEMORY) % MEMORY
    visible = (m < MEMORY) & (age < seen)
    ring = (row * heads + head) * (MEMORY * SIZE)
    offset = m[:, None] * SIZE + d[None, :]
    # The new frame is taken from the registers: in the ring another thread may not have written it yet.
    old = (visible & (m != slot))[:, None] & (d < SIZE)[None, :]
    keys = tl.load(keys_ptr + ring + offset, old, other=0.0)
    values = tl.load(values_ptr + ring + offset, old, other=0.0)
    new = (m == slot)[:, None]
    keys = tl.where(new, new_key[None, :], keys).to(tl.float32)
    values = tl.where(new, new_value[None, :], values).to(tl.float32)
    tl.store(keys_ptr + ring + slot * SIZE + d, new_key, d < SIZE)
    tl.store(values_ptr + ring + slot * SIZE + d, new_value, d < SIZE)

    # The scale is 1/size, not 1/sqrt(size), and the relations' bias is not scaled.
    logits = tl.sum(keys * query[None, :], axis=1) / SIZE
    n = tl.arange(0, BLOCK_N)
    mix = tl.load(mix_ptr + b * mix_b + head * mix_h + n, n < RANK, other=0.0).to(tl.float32)
    by_age = tl.load(basis_ptr + n[:, None] * MEMORY + age[None, :], (n < RANK)[:, None] & visible[None, :], other=0.0)
    logits += tl.sum(mix[:, None] * by_age.to(tl.float32), axis=0)
    logits = tl.where(visible, logits, float("-inf"))
    weights = tl.exp(logits - tl.max(logits, axis=0))
    mixed = tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0)
    tl.store(mixed_ptr + (b * heads + head) * SIZE + d, mixed.to(mixed_ptr.dtype.element_ty), d < SIZE)
