"""The temporal half: attention over the frames of the running episode, and the block around it."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.config import RELATION_RANK, VPTConfig
from vpt_gym.nn.state import Window

__all__ = ["Attention", "Block", "SingleStep", "attend_single", "write_ring"]


class SingleStep(Protocol):
    """How one new frame of each row is written into the ring and attends to it; replaced by faster ones on some devices."""

    def __call__(
        self,
        query_bhd: Tensor,
        key_bhd: Tensor,
        value_bhd: Tensor,
        mix_bhn: Tensor,
        basis_nm: Tensor,
        keys_rhmd: Tensor,
        values_rhmd: Tensor,
        window: Window,
    ) -> Tensor:
        """See `attend_single`."""
        ...


class Attention(nn.Module):
    """Multi-head attention whose bias is a learned, query-dependent function of how long ago a frame was.

    Source: `SelfAttentionLayer`, `attention` and `relattn_logits` of OpenAI's Video-Pre-Training (lib/xf.py).
    """

    single_step: SingleStep

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.output: nn.Module = nn.Linear(size, size)
        self.relation = nn.Linear(size, RELATION_RANK * config.heads)
        self.relation_basis = nn.Parameter(torch.empty(RELATION_RANK, config.memory))
        self.fused: nn.Module | None = None
        self.single_step = attend_single

    def fuse(self) -> nn.Linear:
        """Puts query, key, value and relation, which all read the same input, into one matrix, and returns it."""
        parts = [self.query, self.key, self.value, self.relation]
        weight = torch.cat([part.weight for part in parts])
        zeros = torch.zeros_like(self.query.bias)
        fused = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        fused.weight = nn.Parameter(weight, requires_grad=False)
        fused.bias = nn.Parameter(torch.cat([self.query.bias, zeros, zeros, self.relation.bias]), requires_grad=False)
        del self.query, self.key, self.value, self.relation
        self.fused = fused
        return fused

    def _project(self, x_btc: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, T, hidden] -> query, key and value [B, T, heads, head size] and relation [B, T, heads, rank]."""
        size = x_btc.shape[2]
        if self.fused is None:
            parts = [self.query(x_btc), self.key(x_btc), self.value(x_btc), self.relation(x_btc)]
        else:
            parts = list(self.fused(x_btc).split([size, size, size, RELATION_RANK * self.heads], dim=2))
        query_bthd, key_bthd, value_bthd, mix_bthn = (part.unflatten(2, (self.heads, -1)) for part in parts)
        return query_bthd, key_bthd, value_bthd, mix_bthn

    def forward(
        self, x_btc: Tensor, keys_rhmd: Tensor, values_rhmd: Tensor, window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attends from T new frames to the ring and to themselves.

        Args:
            x_btc: [B, T, hidden], the block's normalised input.
            keys_rhmd: [rows, heads, memory, head size], one block's ring; the new key is written into it where the window says
                that it is written first.
            values_rhmd: the same for values.
            window: what may be seen, and the rows and slots concerned.

        Returns:
            Output [B, T, hidden], and the new keys and values [B, T, heads, head size], in the ring's precision.
        """
        query_bthd, key_bthd, value_bthd, mix_bthn = self._project(x_btc)
        key_bthd, value_bthd = key_bthd.to(keys_rhmd.dtype), value_bthd.to(values_rhmd.dtype)
        if window.written_first:
            # The slot to be overwritten is the one frame of the ring that has just become too old to see, so writing before
            # attending is exact, and a step that fails later has destroyed nothing.
            query_bhd, key_bhd, value_bhd, mix_bhn = query_bthd[:, 0], key_bthd[:, 0], value_bthd[:, 0], mix_bthn[:, 0]
            mixed_bhd = self.single_step(
                query_bhd, key_bhd, value_bhd, mix_bhn, self.relation_basis, keys_rhmd, values_rhmd, window
            )
            mixed_btc = mixed_bhd.flatten(1)[:, None]
        else:
            key_bhkd = torch.cat([_taken(keys_rhmd, window), key_bthd.transpose(1, 2)], dim=2)
            value_bhkd = torch.cat([_taken(values_rhmd, window), value_bthd.transpose(1, 2)], dim=2)
            mixed_bhtd = _attend(
                query_bthd.transpose(1, 2), mix_bthn.transpose(1, 2), self.relation_basis, key_bhkd, value_bhkd, window
            )
            mixed_btc = mixed_bhtd.transpose(1, 2).flatten(2)
        return self.output(mixed_btc), key_bthd, value_bthd


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
    """Writes one new frame of each stepped row into the ring, then attends from it to all that the row may see.

    Args:
        query_bhd: [B, heads, head size].
        key_bhd: the new key, the same shape.
        value_bhd: the new value, the same shape.
        mix_bhn: [B, heads, rank], how much of each relation the query wants.
        basis_nm: [rank, memory], what each relation adds for a key of each age.
        keys_rhmd: [rows, heads, memory, head size], one block's ring, written in place.
        values_rhmd: the same for values.
        window: of one new frame for each of B rows.

    Returns:
        [B, heads, head size], in the precision of the values.
    """
    write_ring(keys_rhmd, key_bhd[:, None], window)
    write_ring(values_rhmd, value_bhd[:, None], window)
    keys_bhmd, values_bhmd = _taken(keys_rhmd, window), _taken(values_rhmd, window)
    return _attend(query_bhd[:, :, None], mix_bhn[:, :, None], basis_nm, keys_bhmd, values_bhmd, window)[:, :, 0]


def _attend(
    query_bhtd: Tensor, mix_bhtn: Tensor, basis_nm: Tensor, key_bhkd: Tensor, value_bhkd: Tensor, window: Window
) -> Tensor:
    """T queries over K keys -> [B, heads, T, head size]."""
    # The ring may be kept in a shorter type than is computed in.
    key_bhkd, value_bhkd = key_bhkd.to(query_bhtd.dtype), value_bhkd.to(query_bhtd.dtype)
    # The scale is 1/size, not 1/sqrt(size); the relation term is not scaled. The sum of the two and the softmax are float32.
    wide = torch.promote_types(query_bhtd.dtype, torch.float32)
    logits_bhtk = torch.matmul(query_bhtd, key_bhkd.transpose(2, 3)).to(wide).div_(query_bhtd.shape[3])
    by_age_bhtm = torch.matmul(mix_bhtn.to(wide), basis_nm.to(wide))
    logits_bhtk += by_age_bhtm.gather(3, window.age_btk[:, None].expand(-1, logits_bhtk.shape[1], -1, -1))
    logits_bhtk.masked_fill_(~window.visible_btk[:, None], float("-inf"))
    weights_bhtk = logits_bhtk.softmax(dim=3).to(value_bhkd.dtype)
    mixed_bhtd = torch.matmul(weights_bhtk, value_bhkd)
    if _may_ask(mixed_bhtd) and bool(mixed_bhtd.isfinite().all()):
        return mixed_bhtd
    return _confined(weights_bhtk, value_bhkd, window)


def _may_ask(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at on the way: a GPU would be waited for, and not while a graph is captured."""
    return not tensor.is_cuda


def _confined(weights_bhtk: Tensor, value_bhkd: Tensor, window: Window) -> Tensor:
    """The weighted sum, where a value that is not finite reaches only the queries that may see it.

    In a plain product it reaches all of them: a weight of zero times NaN or infinity is NaN.
    """
    bad_bhk = ~value_bhkd.isfinite().all(dim=3)
    mixed_bhtd = torch.matmul(weights_bhtk, value_bhkd.masked_fill(bad_bhk[..., None], 0))
    sees_bad_bht = (window.visible_btk[:, None] & bad_bhk[:, :, None]).any(dim=3)
    return mixed_bhtd.masked_fill(sees_bad_bht[..., None], float("nan"))


def _taken(ring_rhmd: Tensor, window: Window) -> Tensor:
    """The ring of the stepped rows: the ring itself, not a copy, when all of them are."""
    return ring_rhmd if window.rows_b is None else ring_rhmd[window.rows_b]


def write_ring(ring_rhmd: Tensor, new_bthd: Tensor, window: Window) -> None:
    """Writes T new frames of the window's rows into their slots, in place."""
    rows_b = window.rows_b
    if rows_b is None:
        rows_b = torch.arange(len(ring_rhmd), device=ring_rhmd.device)
    ring_rhmd[rows_b[:, None], :, window.slots_bt] = new_bthd


class Block(nn.Module):
    """Attention, then an MLP with its own residual (`ResidualRecurrentBlock`)."""

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.input_norm = nn.LayerNorm(size)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp_in: nn.Module = nn.Linear(size, inner, bias=False)
        self.mlp_out: nn.Module = nn.Linear(inner, size)

    def forward(
        self, x_btc: Tensor, keys_rhmd: Tensor, values_rhmd: Tensor, window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments and results as `Attention.forward`, with the block's output in place of the attention's."""
        # The attention's residual carries the normalised input, not the input: a quirk of the original that weights rely on.
        x_btc = self.input_norm(x_btc)
        mixed_btc, key_bthd, value_bthd = self.attention(x_btc, keys_rhmd, values_rhmd, window)
        x_btc = x_btc + mixed_btc
        x_btc = x_btc + self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x_btc))))
        return x_btc, key_bthd, value_bthd
