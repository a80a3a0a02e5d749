"""The denoising network: an encoder of what is seen and wanted, and a decoder of actions that is told sigma in every layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpt_gym.heads.scaling import ScaledLatents
from vpt_gym.heads.videoformer import VideoFormer
from vpt_gym.latents import latent_box

__all__ = ["ContextEncoder", "Decoder"]


class ContextEncoder(nn.Module):
    """Stacked latents, and perhaps a goal, as tokens that have looked at each other.

    Args:
        latent_size: of one latent.
        stack: latents side by side, oldest first; zeros where there is none.
        goal_size: of a goal, 0 for none.
        grid: of a latent that is a grid, which a VideoFormer reads; None for a latent that is one token.
        width: of a token.
        layers: of the transformer.
        heads: of its attention.
    """

    def __init__(
        self,
        latent_size: int,
        stack: int,
        goal_size: int,
        grid: tuple[int, int, int, int] | None,
        width: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.stack = stack
        # With time: its frames carry positions when they look at each other, so that their tokens, a set to what reads them,
        # tell their order.
        self.former = None if grid is None else VideoFormer(latent_box(latent_size * stack), grid, width=width)
        # The video former normalises its cells itself.
        self.scaling = ScaledLatents(latent_box(latent_size)) if grid is None else None
        self.token = nn.Linear(latent_size, width) if grid is None else None
        self.age = nn.Parameter(0.02 * torch.randn(stack, width)) if grid is None else None
        self.goal = nn.Linear(goal_size, width) if goal_size else None
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, latents_bd: Tensor, goals_bg: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents [B, stack * D] and goals [B, G] -> tokens [B, S, width], and which of them are none, bool [B, S]."""
        if self.former is not None:
            tokens_bkqw, there_bk = self.former.tokens(latents_bd)
            tokens_bsw, none_bs = tokens_bkqw.flatten(1, 2), ~there_bk.repeat_interleave(tokens_bkqw.shape[2], dim=1)
        else:
            assert self.token is not None
            assert self.scaling is not None
            assert self.age is not None
            latents_bsd = latents_bd.view(len(latents_bd), self.stack, -1)
            none_bs = (latents_bsd == 0).all(dim=2)
            none_bs = torch.cat([none_bs[:, :-1], torch.zeros_like(none_bs[:, -1:])], dim=1)
            tokens_bsw = self.token(self.scaling(latents_bsd)) + self.age
        if self.goal is not None:
            assert goals_bg is not None
            tokens_bsw = torch.cat([self.goal(goals_bg)[:, None], tokens_bsw], dim=1)
            none_bs = torch.cat([torch.zeros_like(none_bs[:, :1]), none_bs], dim=1)
        return self.layers(tokens_bsw, src_key_padding_mask=none_bs), none_bs


class Decoder(nn.Module):
    """Noisy actions become what the network says of them, looking at the context and told sigma by FiLM."""

    def __init__(self, size: int, horizon: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.action = nn.Linear(size, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(100.0), width // 2)), persistent=False)
        self.sigma = nn.Sequential(nn.Linear(width // 2 * 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    frequencies: Tensor

    def forward(self, noisy_bha: Tensor, noise_b: Tensor, context_bsw: Tensor, none_bs: Tensor) -> Tensor:
        """Scaled noisy codes [B, H, A], c_noise [B] and the context -> [B, H, A]."""
        angles_bf = noise_b[:, None] * self.frequencies
        sigma_bw = self.sigma(torch.cat([angles_bf.sin(), angles_bf.cos()], dim=1))
        tokens_bhw = self.action(noisy_bha) + self.position
        for layer in self.layers:
            tokens_bhw = layer(tokens_bhw, sigma_bw, context_bsw, none_bs)
        said_bha: Tensor = self.out(tokens_bhw)
        return said_bha


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.itself = nn.MultiheadAttention(width, heads, batch_first=True)
        self.context = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.film = nn.Linear(width, 6 * width)

    def forward(self, tokens_bhw: Tensor, sigma_bw: Tensor, context_bsw: Tensor, none_bs: Tensor) -> Tensor:
        film = self.film(sigma_bw)[:, None].chunk(6, dim=2)

        def told(place: int) -> Tensor:
            modulated: Tensor = self.norms[place](tokens_bhw) * (1 + film[2 * place]) + film[2 * place + 1]
            return modulated

        asking = told(0)
        tokens_bhw = tokens_bhw + self.itself(asking, asking, asking, need_weights=False)[0]
        read = self.context(told(1), context_bsw, context_bsw, key_padding_mask=none_bs, need_weights=False)[0]
        tokens_bhw = tokens_bhw + read
        thought_bhw: Tensor = tokens_bhw + self.mlp(told(2))
        return thought_bhw
