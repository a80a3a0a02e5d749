"""Small instances of MineStudio's real policies, randomly initialised, and one row stepped through its own `get_action`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.support.minestudio import import_minestudio_models, randomise
from vpt_gym.config import VPTConfig
from vpt_gym.weights.saving import policy_options

CONFIG = VPTConfig(hidden_size=64, heads=2, impala_width=1)
"""As deep as every VPT network, with the memory of 128 frames; MineStudio fixes the dense layer at 256."""

WINDOW = 12
"""Frames that the small GROOT and ROCKET-1 remember, so that a short test fills their memory."""


def _drawn(policy: Any, seed: int) -> Any:
    """In eval mode, every parameter random; those of attention small, because narrow layers amplify everybody's rounding."""
    randomise(policy, seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".blocks." in name and "orc_block" in name and parameter.dim() > 1 and not name.endswith("b_nd"):
                parameter.mul_(0.5)
    return policy.eval()


def vpt_policy(seed: int = 0, **options: Any) -> Any:
    import_minestudio_models()
    body = importlib.import_module("minestudio.models.vpt.body")
    policy = body.VPTPolicy(policy_kwargs={**policy_options(CONFIG), **options})
    return _drawn(policy, seed)


def steve_policy(seed: int = 0, **options: Any) -> Any:
    """STEVE-1 with a MineCLIP of two narrow layers; MineStudio fixes the sizes of the whole one, 600 MB."""
    import_minestudio_models()
    body = importlib.import_module("minestudio.models.steve_one.body")
    mineclip = importlib.import_module("minestudio.utils.mineclip_lib.mineclip.mineclip")
    whole = mineclip.CLIP

    def small(**sizes: Any) -> Any:
        narrow = {"text_width": 64, "text_heads": 2, "text_layers": 2, "vision_width": 64, "vision_layers": 2}
        return whole(**{**sizes, **narrow, "vocab_size": Tokenizer.words + 2})

    kwargs = {
        "arch": "vit_base_p16_fz.v2.t2",
        "hidden_dim": 512,
        "image_feature_dim": 512,
        "mlp_adapter_spec": "v0-2.t0",
        "pool_type": "attn.d2.nh8.glusw",
        "resolution": [160, 256],
    }
    with mock.patch.object(mineclip, "CLIP", small):
        policy = body.SteveOnePolicy(mineclip_kwargs=kwargs, policy_kwargs={**policy_options(CONFIG), **options})
    return _drawn(policy, seed)


class Tokenizer:
    """Stands for CLIP's, which comes from the hub: a number for each word."""

    words = 30
    bos_token_id = words
    eos_token_id = words + 1

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[1 + sum(map(ord, word)) % (self.words - 1) for word in text.split()] for text in texts]}


@contextmanager
def words_known() -> Iterator[None]:
    """Inside, MineCLIP finds a tokenizer without the hub."""
    tokenization = importlib.import_module("minestudio.utils.mineclip_lib.mineclip.tokenization")
    with mock.patch.object(tokenization, "get_tokenizer", return_value=Tokenizer()):
        yield


@contextmanager
def _untrained_backbone(name: str) -> Iterator[None]:
    """Inside, timm draws a small backbone at random where it would download a large one."""
    import_minestudio_models()
    timm = importlib.import_module("timm")
    create = timm.create_model

    def untrained(_: str, *, pretrained: bool, **options: Any) -> Any:
        assert pretrained
        return create(name, pretrained=False, **options)

    with mock.patch.object(timm, "create_model", untrained):
        yield


def groot_policy(seed: int = 0) -> Any:
    with _untrained_backbone("test_efficientnet"):
        body = importlib.import_module("minestudio.models.groot_one.body")
        policy = body.GrootPolicy(
            hiddim=64,
            decoder_kwargs={"timesteps": WINDOW, "mem_len": WINDOW, "num_heads": 2, "num_layers": 2},
        )
    return _drawn(policy, seed)


def rocket_policy(seed: int = 0) -> Any:
    with _untrained_backbone("test_vit"):
        body = importlib.import_module("minestudio.models.rocket_one.body")
        policy = body.RocketPolicy(hiddim=64, num_heads=2, num_layers=2, timesteps=WINDOW, mem_len=WINDOW)
    return _drawn(policy, seed)


def seen_by_heads(policy: Any, latents: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the policy's own heads make of latents [n, C]: log-probabilities of the actions, and values."""
    with torch.no_grad():
        logits = policy.pi_head(latents[:, None])
        return {name: value[:, 0].log_softmax(-1).flatten(1) for name, value in logits.items()}, policy.value_head(
            latents
        )


class Alone:
    """One row, stepped through the policy's own `get_action`, with a fresh state wherever an episode opens."""

    def __init__(self, policy: Any, initial: Callable[[], Any]) -> None:
        self.policy, self._initial = policy, initial
        self.state: Any = None

    def step(self, inputs: dict[str, Any], *, opens: bool) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs [1, 1, ...] -> log-probabilities [1, actions] for each part of an action, and the value [1, 1]."""
        self.forget_shapes()
        state = self._initial() if opens else self.state
        _, self.state = self.policy.get_action(inputs, state, deterministic=True, input_shape="BT*")
        latents = self.policy.cache_latents
        logits = {name: value[:, 0].log_softmax(-1).flatten(1) for name, value in latents["pi_logits"].items()}
        return logits, latents["vpred"][:, 0]

    def forget_shapes(self) -> None:
        """GROOT and ROCKET-1 can't be called on another batch shape than their first; here all are [1, 1]."""
        for module in self.policy.modules():
            if isinstance(vars(module).get("first"), Tensor):
                assert module.first.shape == (1, 1)


def resets(rows: int, steps: int, *, seed: int = 3, rate: float = 0.03) -> np.ndarray:
    """Random `first` flags [rows, steps]; every row opens with one."""
    first = np.random.default_rng(seed).random((rows, steps)) < rate
    first[:, 0] = True
    return first
