"""The temporal half: attention over the frames of the running episode, and the block around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.config import RELATION_RANK, VPTConfig
from vpt_gym.nn.state import Window

__all__ = ["Block"]


class Attention(nn.Module):
    """Multi-head attention whose bias is a learned, query-dependent function of how long ago a frame was.

    Source: `SelfAttentionLayer`, `attention` and `relattn_logits` of OpenAI's Video-Pre-Training (lib/xf.py).
    """

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.output = nn.Linear(size, size)
        self.relation = nn.Linear(size, RELATION_RANK * config.heads)
        self.relation_basis = nn.Parameter(torch.empty(RELATION_RANK, config.memory))

    def _split(self, x_btc: Tensor) -> Tensor:
        """[B, T, heads x size] -> [B, heads, T, size]."""
        batch, count, size = x_btc.shape
        return x_btc.view(batch, count, self.heads, size // self.heads).transpose(1, 2)

    def forward(
        self, x_btc: Tensor, keys_bhmd: Tensor, values_bhmd: Tensor, window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attends from T new frames to the ring and to themselves.

        Args:
            x_btc: [B, T, hidden], the block's normalised input.
            keys_bhmd: [rows, heads, memory, head size], one block's ring; for T = 1 the new key is written into it.
            values_bhmd: the same for values.
            window: what may be seen, and the rows and slots concerned.

        Returns:
            Output [B, T, hidden], and the new keys and values [B, T, heads, head size] (for T > 1 not yet in the ring).
        """
        query_bhtd = self._split(self.query(x_btc))
        new_key_bhtd = self._split(self.key(x_btc))
        new_value_bhtd = self._split(self.value(x_btc))
        key_bthd, value_bthd = new_key_bhtd.transpose(1, 2), new_value_bhtd.transpose(1, 2)
        rows_b = window.rows_b
        if x_btc.shape[1] == 1:
            # The slot to be overwritten is the one frame of the ring that has just become too old to see, so writing before
            # attending is exact, and a step that fails later has destroyed nothing.
            write_ring(keys_bhmd, key_bthd, window)
            write_ring(values_bhmd, value_bthd, window)
        key_bhkd = keys_bhmd if rows_b is None else keys_bhmd[rows_b]
        value_bhkd = values_bhmd if rows_b is None else values_bhmd[rows_b]
        if x_btc.shape[1] > 1:
            key_bhkd = torch.cat([key_bhkd, new_key_bhtd], dim=2)
            value_bhkd = torch.cat([value_bhkd, new_value_bhtd], dim=2)

        # The scale is 1/size, not 1/sqrt(size); the relation term is not scaled. Logits and softmax stay in float32.
        logits_bhtk = torch.matmul(query_bhtd, key_bhkd.transpose(2, 3)).float().div_(query_bhtd.shape[3])
        logits_bhtk += self._relation_bias(x_btc, window.age_btk)
        logits_bhtk.masked_fill_(~window.visible_btk[:, None], float("-inf"))
        weights_bhtk = logits_bhtk.softmax(dim=3).to(value_bhkd.dtype)
        mixed_btc = torch.matmul(weights_bhtk, value_bhkd).transpose(1, 2).flatten(2)
        return self.output(mixed_btc), key_bthd, value_bthd

    def _relation_bias(self, x_btc: Tensor, age_btk: Tensor) -> Tensor:
        """[B, T, hidden] and ages [B, T, K] -> float32 [B, heads, T, K]."""
        mix_bthn = self.relation(x_btc).view(*x_btc.shape[:2], self.heads, RELATION_RANK)
        by_age_bhtm = torch.matmul(mix_bthn.transpose(1, 2).float(), self.relation_basis.float())
        return by_age_bhtm.gather(3, age_btk[:, None].expand(-1, self.heads, -1, -1))


def write_ring(ring_bhmd: Tensor, new_bthd: Tensor, window: Window) -> None:
    """Writes T new frames of the window's rows into their slots, in place."""
    rows_b = window.rows_b
    if rows_b is None:
        rows_b = torch.arange(len(ring_bhmd), device=ring_bhmd.device)
    ring_bhmd[rows_b[:, None], :, window.slots_bt] = new_bthd


class Block(nn.Module):
    """Attention, then an MLP with its own residual (`ResidualRecurrentBlock`)."""

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.input_norm = nn.LayerNorm(size)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp_in = nn.Linear(size, inner, bias=False)
        self.mlp_out = nn.Linear(inner, size)

    def forward(
        self, x_btc: Tensor, keys_bhmd: Tensor, values_bhmd: Tensor, window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments and results as `Attention.forward`, with the block's output in place of the attention's."""
        # The attention's residual carries the normalised input, not the input: a quirk of the original that weights rely on.
        x_btc = self.input_norm(x_btc)
        mixed_btc, key_bthd, value_bthd = self.attention(x_btc, keys_bhmd, values_bhmd, window)
        x_btc = x_btc + mixed_btc
        x_btc = x_btc + self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x_btc))))
        return x_btc, key_bthd, value_bthd
