"""A features extractor over the last latents: learned queries look at them through attention."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from vpt_gym.checks import check_count
from vpt_gym.errors import VPTGymError

__all__ = ["LatentResampler"]


class LatentResampler(BaseFeaturesExtractor):
    """Attention over the last K latents, for a policy of Stable-Baselines3 behind its VecFrameStack.

        venv = VecFrameStack(vpt_gym.sb3.VecVPTLatent(venv, encoder), 8)
        extractor = {"latent_size": encoder.latent_size}
        PPO("MlpPolicy", venv, policy_kwargs={
            "features_extractor_class": LatentResampler, "features_extractor_kwargs": extractor})

    A few learned queries read the latents, each of which carries a learned mark of its age; what they read, side by side, are
    the features. Latents from before an episode's start, which VecFrameStack fills with zeros, are not seen. Where `layers`
    layers lie side by side in a latent (`layer="all"`), each is a token of its own, marked by which layer it is.

    Source: the resampler of Perceiver and Flamingo, which Video Prediction Policy (arXiv 2412.14803) calls Video Former.

    Args:
        observation_space: Box [K * latent_size], oldest latent first.
        latent_size: numbers in one latent.
        layers: how many layers, of equal length, a latent holds.
        queries: how many.
        width: of queries and tokens, inside.
        heads: of the attention.
        blocks: how often the queries read.

    Raises:
        VPTGymError: the observations are not whole latents, or the latents not whole layers, or a size is no positive whole
            number, or `heads` does not divide `width`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        latent_size: int,
        *,
        layers: int = 1,
        queries: int = 4,
        width: int = 64,
        heads: int = 4,
        blocks: int = 1,
    ) -> None:
        given = {"latent_size": latent_size, "layers": layers, "queries": queries, "width": width, "heads": heads}
        for name, value in {**given, "blocks": blocks}.items():
            check_count(f"LatentResampler: {name}", value)
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise VPTGymError(
                f"LatentResampler reads stacked latents, a Box [K * latent_size], but the observation is {observation_space}."
            )
        size = observation_space.shape[0]
        if size % latent_size or latent_size % layers or width % heads:
            raise VPTGymError(
                f"LatentResampler: an observation of {size} numbers must be whole latents of {latent_size}, a latent whole "
                f"layers, of which there are {layers}, and heads={heads} must divide width={width}: give the encoder's "
                "latent_size, and the number of its layers."
            )
        super().__init__(observation_space, queries * width)
        self.stack = size // latent_size
        self.layers = layers
        self.token = nn.Linear(latent_size // layers, width)
        self.age = nn.Parameter(0.02 * torch.randn(self.stack, 1, width))
        self.layer = nn.Parameter(0.02 * torch.randn(1, layers, width))
        self.queries = nn.Parameter(torch.randn(queries, width) / width**0.5)
        self.blocks = nn.ModuleList(_Reading(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [B, K * latent_size] -> features [B, queries * width]."""
        latents_bkld = observations.view(len(observations), self.stack, self.layers, -1)
        padding_bk = (latents_bkld == 0).flatten(2).all(dim=2)
        # The newest latent is never padding, even if all of it is zero: there is always something to attend to.
        padding_bk = torch.cat([padding_bk[:, :-1], torch.zeros_like(padding_bk[:, -1:])], dim=1)
        tokens_btw = (self.token(latents_bkld) + self.age + self.layer).flatten(1, 2)
        padding_bt = padding_bk.repeat_interleave(self.layers, dim=1)
        queries_bqw = self.queries.expand(len(observations), -1, -1)
        for block in self.blocks:
            queries_bqw = block(queries_bqw, tokens_btw, padding_bt)
        features_bf: Tensor = self.norm(queries_bqw).flatten(1)
        return features_bf


class _Reading(nn.Module):
    """Queries attend to tokens, then think: the two halves of a transformer's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, queries_bqw: Tensor, tokens_btw: Tensor, padding_bt: Tensor) -> Tensor:
        tokens_btw = self.token_norm(tokens_btw)
        read_bqw, _ = self.attention(
            self.query_norm(queries_bqw), tokens_btw, tokens_btw, key_padding_mask=padding_bt, need_weights=False
        )
        queries_bqw = queries_bqw + read_bqw
        thought_bqw: Tensor = queries_bqw + self.mlp(queries_bqw)
        return thought_bqw
