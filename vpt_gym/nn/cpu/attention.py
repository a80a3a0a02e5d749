"""One new frame over a ring that is kept in a shorter type than is computed in: a few rows at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from vpt_gym.nn import attention
from vpt_gym.nn.state import Window

__all__ = ["attend_single"]

_COPIES: Final = 8 * 2**20
"""Bytes of keys and values in the longer type that are made at once: they stay in the cache, and in memory that is at hand. The
whole ring of many rows would be copied to fresh memory at every step, which costs several times what it is read for."""


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
    rows = len(query_bhd)
    count = rows
    if keys_rhmd.dtype != query_bhd.dtype:
        count = max(1, _COPIES // (2 * keys_rhmd[0].numel() * query_bhd.element_size()))
    if count >= rows:
        return attention.attend_single(query_bhd, key_bhd, value_bhd, mix_bhn, basis_nm, keys_rhmd, values_rhmd, window)
    pieces = []
    for start in range(0, rows, count):
        piece = slice(start, start + count)
        ring = piece if window.rows_b is None else slice(None)
        part = replace(
            window,
            rows_b=None if window.rows_b is None else window.rows_b[piece],
            slots_bt=window.slots_bt[piece],
            seen_b=window.seen_b[piece],
            age_btk=window.age_btk[piece],
            visible_btk=window.visible_btk[piece],
        )
        pieces.append(
            attention.attend_single(
                query_bhd[piece], key_bhd[piece], value_bhd[piece], mix_bhn[piece], basis_nm,
                keys_rhmd[ring], values_rhmd[ring], part,
            )
        )  # fmt: skip
    return torch.cat(pieces)
