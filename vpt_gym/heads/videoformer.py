"""Learned queries look at the imagined frames of a video encoder: within each frame, then from frame to frame."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from vpt_gym.checks import check_count
from vpt_gym.errors import VPTGymError

__all__ = ["VideoFormer"]

_LATENT = "latent"


class VideoFormer(BaseFeaturesExtractor):
    """Video Former: a few tokens a frame out of grids of features, for policies of Stable-Baselines3 and `DiffusionPolicy`.

        encoder = vpt_gym.load_encoder("video:folder?pool=grid:4")
        PPO("MlpPolicy", venv, policy_kwargs={
            "features_extractor_class": VideoFormer, "features_extractor_kwargs": {"grid": encoder.grid}})

    In every block the queries of a frame attend to the cells of that frame, then each query to itself in all frames, which
    carry learned positions, and an MLP follows. Without `time` (the 2-D form) frames do not look at each other; nor does a
    frame that is alone. Frames that are zero throughout, as VecFrameStack puts them before an episode's start, are none: they
    are not seen, and give zeros. The features are the mean over the frames that there are; without `time` their order is lost
    in it.

    VecNormalize must not scale its observations where latents are stacked: the zeros would become other numbers, and be seen.
    It needs no scaling, since it normalises its cells itself.

    For `MultiInputPolicy` it puts what stands beside the latent, such as a goal, behind its features as it is.

    Source: Video Prediction Policy, arXiv 2412.14803.

    Args:
        observation_space: Box [S * K * rows * columns * C], S stacked latents of the encoder, or a Dict with such a `latent`.
        grid: K, rows, columns, C of one latent: the encoder's `grid`.
        queries: tokens a frame.
        width: of a token.
        depth: blocks.
        heads: of every attention.
        head_width: of each head.
        time: whether frames look at each other.

    Raises:
        VPTGymError: the observations are not whole latents of that grid, or a size is no positive whole number.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        grid: tuple[int, int, int, int],
        *,
        queries: int = 4,
        width: int = 384,
        depth: int = 3,
        heads: int = 8,
        head_width: int = 64,
        time: bool = True,
    ) -> None:
        given = {"queries": queries, "width": width, "depth": depth, "heads": heads, "head_width": head_width}
        for name, value in given.items():
            check_count(f"VideoFormer: {name}", value)
        if len(grid) != 4:
            raise VPTGymError(f"VideoFormer: grid must be the encoder's K, rows, columns, channels, not {tuple(grid)}.")
        frames, rows, columns, channels = (check_count("VideoFormer: grid", size) for size in grid)
        beside = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {}
        latent = beside.pop(_LATENT, None) if beside else observation_space
        shape = latent.shape if isinstance(latent, spaces.Box) else None
        size = frames * rows * columns * channels
        if shape is None or len(shape) != 1 or shape[0] % size:
            raise VPTGymError(
                f"VideoFormer reads latents of the grid {tuple(grid)}, which are {size} numbers each, but the observation is "
                f"{observation_space}: give the grid of the encoder that the observations come from."
            )
        super().__init__(observation_space, queries * width + sum(map(get_flattened_obs_dim, beside.values())))
        self._beside = tuple(beside)
        self.frames = shape[0] // size * frames
        self._cells = (rows * columns, channels)
        self.token = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.position = nn.Parameter(0.02 * torch.randn(self.frames, width))
        self.queries = nn.Parameter(torch.randn(queries, width) / width**0.5)
        self.blocks = nn.ModuleList(_Block(width, heads, head_width, time=time) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def tokens(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [B, S * K * cells * C] -> tokens [B, frames, queries, width], and which frames there are, bool
        [B, frames].

        Tokens of frames that there are not are zero.
        """
        grids_bknc = observations.view(len(observations), self.frames, *self._cells)
        there_bk = (grids_bknc != 0).flatten(2).any(dim=2)
        # The newest frame is always one, even if all of it is zero: there is always something to attend to.
        there_bk = torch.cat([there_bk[:, :-1], torch.ones_like(there_bk[:, -1:])], dim=1)
        tokens_bkqw = self.look(grids_bknc, there_bk)
        return tokens_bkqw, there_bk

    def look(self, grids_bknc: Tensor, there_bk: Tensor) -> Tensor:
        """Grids [B, K, N, C] and which frames there are, bool [B, K] -> tokens [B, K, queries, width]; K up to `frames`."""
        cells_bknw = self.token(grids_bknc)
        tokens_bkqw = self.queries.expand(*grids_bknc.shape[:2], -1, -1)
        position_kw = self.position[: grids_bknc.shape[1]]
        for block in self.blocks:
            tokens_bkqw = block(tokens_bkqw, cells_bknw, there_bk, position_kw)
        seen_bkqw: Tensor = torch.where(there_bk[:, :, None, None], self.norm(tokens_bkqw), 0.0)
        return seen_bkqw

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Observations [B, S * K * cells * C] -> features [B, queries * width]; and what is beside them, [B, features_dim] in
        all."""
        tokens_bkqw, there_bk = self.tokens(observations[_LATENT] if isinstance(observations, dict) else observations)
        features_bd = (tokens_bkqw.sum(dim=1) / there_bk.sum(dim=1)[:, None, None]).flatten(1)
        if not isinstance(observations, dict):
            return features_bd
        return torch.cat([features_bd, *(observations[key].flatten(1) for key in self._beside)], dim=1)


class _Block(nn.Module):
    """Looking within each frame, from frame to frame, and thinking."""

    def __init__(self, width: int, heads: int, head_width: int, *, time: bool) -> None:
        super().__init__()
        self.within = _Attention(width, heads, head_width)
        self.across = _Attention(width, heads, head_width) if time else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens_bkqw: Tensor, cells_bknw: Tensor, there_bk: Tensor, position_kw: Tensor) -> Tensor:
        tokens_bkqw = tokens_bkqw + self.within(tokens_bkqw, cells_bknw, None)
        if self.across is not None:
            tokens_bqkw = tokens_bkqw.transpose(1, 2)
            # A frame that is none looks at itself, so that its softmax has something; nobody reads it.
            itself_kk = torch.eye(there_bk.shape[1], dtype=torch.bool, device=there_bk.device)
            seen_b1kk = (there_bk[:, None, :] | itself_kk)[:, None]
            told_bqkw = self.across(tokens_bqkw + position_kw, tokens_bqkw + position_kw, seen_b1kk)
            alone_b = there_bk.sum(dim=1) < 2
            told_bqkw = torch.where(alone_b[:, None, None, None], 0.0, told_bqkw)
            tokens_bkqw = tokens_bkqw + told_bqkw.transpose(1, 2)
        thought_bkqw: Tensor = tokens_bkqw + self.mlp(tokens_bkqw)
        return thought_bkqw


class _Attention(nn.Module):
    """Attention whose heads have a width of their own; over the last axis but one."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.asking, self.asked = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, asking_xyqw: Tensor, asked_xytw: Tensor, mask_xyqt: Tensor | None) -> Tensor:
        queries = self._split(self.query(self.asking(asking_xyqw)))
        keys, values = map(self._split, self.key_value(self.asked(asked_xytw)).chunk(2, dim=-1))
        mask = None if mask_xyqt is None else mask_xyqt[:, :, None]
        read = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        read_xyqw: Tensor = self.out(read.transpose(-2, -3).flatten(-2))
        return read_xyqw

    def _split(self, values_xytw: Tensor) -> Tensor:
        return values_xytw.view(*values_xytw.shape[:-1], self.heads, -1).transpose(-2, -3)
