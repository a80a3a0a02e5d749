"""The whole network: frames, `first` flags and a memory in; the outputs of any of its layers, and a memory, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.config import VPTConfig
from vpt_gym.nn.attention import Block, write_ring
from vpt_gym.nn.cnn import FrameEncoder
from vpt_gym.nn.state import Memory, Window

__all__ = ["VPTNet", "layer_names"]


def layer_names(config: VPTConfig) -> tuple[str, ...]:
    """The layers whose outputs can be taken, in the order of the computation: cnn, block0 ..., final."""
    return ("cnn", *(f"block{i}" for i in range(config.blocks)), "final")


class VPTNet(nn.Module):
    """VPT's network without its heads; it holds weights and nothing else.

    Source: `MinecraftPolicy` of OpenAI's Video-Pre-Training (lib/policy.py); VPT paper (arXiv 2206.11795), appendix D.1.
    """

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        self.config = config
        # A device may bring faster parts that do the same, in place of these: see `accelerate`.
        self.cnn: nn.Module = FrameEncoder(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.last_norm = nn.LayerNorm(config.hidden_size)
        self.last: nn.Module = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.final_norm = nn.LayerNorm(config.hidden_size)

    @classmethod
    def from_tensors(cls, config: VPTConfig, tensors: Mapping[str, Tensor]) -> VPTNet:
        """A frozen network around existing tensors, keyed by parameter name; they are not copied but for their layout."""
        with torch.device("meta"):
            net = cls(config)
        net.load_state_dict(tensors, strict=True, assign=True)
        net.requires_grad_(requires_grad=False).eval()
        # NHWC convolutions: frames arrive that way, and the layout is the faster one on CPUs and GPUs alike.
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        return net

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, and so of the memory."""
        return self.final_norm.weight.dtype

    def forward(
        self,
        frames_bthwc: Tensor,
        first_bt: Tensor,
        memory: Memory,
        *,
        layers: Sequence[str],
        rows_b: Tensor | None = None,
        goals_bgc: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Memory]:
        """Runs T new frames of B rows: a memory goes in, and the one behind these frames comes out.

        Without gradients, the two share their rings: keys and values are written in place, and whoever goes on does so from
        the memory that comes out. (After one frame, T = 1, the one that went in is good for another try all the same: what
        was written over was a frame that it may not see any more.) With gradients (`torch.is_grad_enabled`), nothing is
        written in place: the memory that went in stays as it is, and gradients go through the one that comes out until its
        `detach` cuts them.

        With goals, every frame is looked at once and remembered G times: each goal is added to what the convolutions made of
        the frame, as STEVE-1 does with its embedded instruction (arXiv 2306.00937, section 3), and goes its own way from there.

        Args:
            frames_bthwc: uint8 [B, T, frame_size, frame_size, 3], RGB; 1 <= T <= memory.
            first_bt: bool [B, T]; True where a frame opens an episode: it and its successors see nothing older.
            memory: of as many rows as B, or of any number when `rows_b` says which B of them are stepped; it may hold fewer
                blocks than the network when no later layer is asked for.
            layers: names from `layer_names`, whose outputs are wanted; nothing after the last of them is computed.
            rows_b: int64 [B], distinct rows of the memory, or None for all.
            goals_bgc: [B, G, hidden_size] in the network's precision. `first_bt`, `rows_b`, the memory and what is returned
                then have B*G rows, the G of one frame side by side.

        Returns:
            For each name in `layers`, in their order, [B, T, hidden_size] in the network's precision; and the memory.
        """
        batch, count = frames_bthwc.shape[:2]
        in_place = not torch.is_grad_enabled()
        x_btc = self.cnn(frames_bthwc.flatten(0, 1)).view(batch, count, -1)
        if goals_bgc is not None:
            x_btc = (x_btc[:, None] + goals_bgc[:, :, None]).flatten(0, 1)
        outputs = {"cnn": x_btc}
        window = Window.of(memory, first_bt, rows_b, written_first=in_place and count == 1)
        pending: list[tuple[Tensor, Tensor]] = []
        for i in range(len(memory.keys_lbhmd)):
            x_btc, key_bthd, value_bthd = self.blocks[i](x_btc, memory.keys_lbhmd[i], memory.values_lbhmd[i], window)
            outputs[f"block{i}"] = x_btc
            pending.append((key_bthd, value_bthd))
        if "final" in layers:
            x_btc = F.relu(self.last(self.last_norm(F.relu(x_btc))))
            outputs["final"] = self.final_norm(x_btc)
        keys_lbhmd, values_lbhmd = memory.keys_lbhmd, memory.values_lbhmd
        if not window.written_first:
            if not in_place:
                keys_lbhmd, values_lbhmd = keys_lbhmd.clone(), values_lbhmd.clone()
            for i, (key_bthd, value_bthd) in enumerate(pending):
                write_ring(keys_lbhmd[i], key_bthd, window)
                write_ring(values_lbhmd[i], value_bthd, window)
        return tuple(outputs[name] for name in layers), window.after(memory, keys_lbhmd, values_lbhmd)
