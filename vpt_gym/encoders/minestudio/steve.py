"""STEVE-1: told what to do by a text or a video, embedded by MineCLIP, and how strongly by `cond_scale`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.encoders.inputs import check_frames
from vpt_gym.encoders.minestudio.conditions import as_tensor
from vpt_gym.encoders.minestudio.forward import computing, latents_of, run
from vpt_gym.encoders.minestudio.kinds import IMAGE, Kind, check_trunk, vpt_frame_size
from vpt_gym.encoders.protocol import GoalTower
from vpt_gym.encoders.text import GOALS_KEPT
from vpt_gym.errors import OptionError, VPTGymError, WeightsError

__all__ = ["MineCLIPTower", "SteveKind", "guided_latents"]

_WAYS = ("text", "video", "mineclip_embeds")
_LARGEST_SCALE = 1e4
"""Far beyond any guidance that is of use, and far below what makes latents overflow."""

_LONGEST_VIDEO = 32
"""Frames that MineCLIP has positions for; it was trained on 16 (arXiv 2206.08853)."""


class SteveKind(Kind):
    """A condition is a dict as MineStudio's `prepare_condition` takes it.

    It has `cond_scale`, a number from 0 to 1e4, and one of `text`, `video` (uint8 [T, H, W, 3], T up to 32) and
    `mineclip_embeds` (float [512]).
    A text becomes the mean of what STEVE-1's prior makes of it; with `seed`, one draw from it.
    """

    needs_condition: ClassVar[bool] = True
    only_size: ClassVar[bool] = True

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        check_trunk(policy)
        self.frame_size = vpt_frame_size(policy.net)

    def prepare(self, condition: object) -> dict[str, Any]:
        """`mineclip_embeds`, float32 [512] on the device, and `cond_scale`, a float."""
        scale, way, value, seed = self._checked(condition)
        device = self.policy.device
        if way == "mineclip_embeds":
            embedding = as_tensor(value, "mineclip_embeds").to(device)
            if embedding.dim() == 2 and len(embedding) == 1:
                embedding = embedding[0]
            size = self.policy.net.mineclip_embed_linear.in_features
            if embedding.shape != (size,) or not embedding.is_floating_point():
                raise VPTGymError(
                    f"mineclip_embeds must be {size} floating-point numbers, but {embedding.dtype} of shape "
                    f"{tuple(embedding.shape)} came; take what MineCLIP's encode_text or encode_video gives."
                )
            return {"mineclip_embeds": embedding, "cond_scale": scale}
        if way == "video":
            if isinstance(value, (str, os.PathLike)):
                raise VPTGymError(
                    f"video must be the frames themselves, uint8 [T, H, W, 3], but the path {value!r} came; decode 16 "
                    "of it."
                )
            frames = check_frames(value, "video", ("T",))
            if len(frames) > _LONGEST_VIDEO:
                raise VPTGymError(
                    f"video must have at most {_LONGEST_VIDEO} frames, as many as MineCLIP looks at, but {len(frames)} came; "
                    "pass 16 of them, as MineCLIP was trained."
                )
            value = torch.from_numpy(np.array(frames)) if isinstance(frames, np.ndarray) else frames
            value = value.to(device)
        else:
            _tokens(self.policy, value)
        instruction = {way: value, "cond_scale": scale}
        # The prior draws from torch's own generators, which are the user's: they are put back.
        # Seeding reaches every GPU, so every GPU's generator is among them.
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            if seed is not None:
                torch.manual_seed(seed)
            made = self.policy.prepare_condition(instruction, deterministic=seed is None)
        return {"mineclip_embeds": made["mineclip_embeds"].reshape(-1).float().clone(), "cond_scale": scale}

    def goal_tower(self) -> GoalTower:
        """MineCLIP's."""
        return MineCLIPTower(self.policy)

    def fits(self, entries: Mapping[str, Any]) -> bool:
        """See `Kind`."""
        embedding, scale = entries.get("mineclip_embeds"), entries.get("cond_scale")
        size = self.policy.net.mineclip_embed_linear.in_features
        return (
            isinstance(embedding, Tensor)
            and embedding.dtype == torch.float32
            and embedding.shape == (size,)
            and isinstance(scale, float)
            and 0 <= scale <= _LARGEST_SCALE
        )

    def initial_state(self, entries: Mapping[str, Any]) -> Any:
        """The state of one row: with guidance, that of a pair side by side on the last axis."""
        return self.policy.initial_state({"cond_scale": entries["cond_scale"]}, 1)

    def forward(self, seen: dict[str, Tensor], state: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Any]:
        """As every kind. The rows have the same form of state, so all are guided or none is."""
        guided = rows[0]["cond_scale"] != 0
        embeddings_be = torch.stack([row["mineclip_embeds"] for row in rows])
        # Any scale but 0 makes the policy run the pair; its own mixture, of one scale for all rows, is not used.
        condition = {"cond_scale": 1.0 if guided else 0.0, "mineclip_embeds": embeddings_be}
        done = run(self.policy, {IMAGE: seen[IMAGE], "condition": condition}, state, self.latent_size)
        width = 2 if guided else 1
        latents_bc = latents_of(done, width * len(rows), self.latent_size, self.name)
        return guided_latents(latents_bc.view(len(rows), width, -1), rows), done.state

    def _checked(self, condition: object) -> tuple[float, str, Any, int | None]:
        wanted = (
            f"A condition of {self.name} is a dict with 'cond_scale' and one of 'text', 'video' and 'mineclip_embeds', such as "
            "{'text': 'chop a tree', 'cond_scale': 4.0}"
        )
        if not isinstance(condition, Mapping):
            raise VPTGymError(f"{wanted}, but a {type(condition).__name__} came.")
        ways = [way for way in _WAYS if way in condition]
        unknown = [key for key in condition if key not in (*_WAYS, "cond_scale", "seed")]
        if len(ways) != 1 or unknown or "cond_scale" not in condition:
            raise VPTGymError(f"{wanted}, but its keys are {', '.join(map(repr, condition)) or 'none'}.")
        scale = condition["cond_scale"]
        if (
            isinstance(scale, bool)
            or not isinstance(scale, (int, float, np.integer, np.floating))
            or not 0 <= scale <= _LARGEST_SCALE
        ):
            raise VPTGymError(
                f"cond_scale must be a number from 0, for no guidance, to {_LARGEST_SCALE:g}, but {scale!r:.60} came; 4.0 is "
                "what MineStudio shows."
            )
        value, seed = condition[ways[0]], condition.get("seed")
        if ways[0] == "text" and (not isinstance(value, str) or not value.strip()):
            raise VPTGymError(f"text must be what to do, in words, but {value!r} came.")
        if seed is not None:
            whole = (
                isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and -(2**63) <= seed < 2**64
            )  # what torch takes
            if ways[0] != "text" or not whole:
                raise VPTGymError(
                    f"seed must be a whole number of at most 64 bits and goes with text alone, but {seed!r:.60} came; "
                    "leave it out."
                )
            seed = int(seed)
        return float(scale), ways[0], value, seed


class MineCLIPTower:
    """MineCLIP's text tower: a text where it is compared with videos, before STEVE-1's prior makes a condition of it.

    Args:
        policy: a SteveOnePolicy.

    Attributes:
        goal_size: 512.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.goal_size = int(policy.mineclip.clip_model.text_model.projection.shape[1])
        self._embedded = lru_cache(maxsize=GOALS_KEPT)(self._embed)

    def goal(self, text: str) -> npt.NDArray[np.float32]:
        """float32 [512]; equal texts are embedded once.

        Raises:
            OptionError: the text is longer than MineCLIP reads.
            WeightsError: its tokenizer cannot be had.
        """
        goal: npt.NDArray[np.float32] = self._embedded(text).copy()
        return goal

    @torch.no_grad()
    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        device = self._policy.device
        with computing(self._policy, device):
            tokens_bl = _tokens(self._policy, text)
            if tokens_bl[0, -1]:
                raise OptionError(
                    f"A goal must have fewer tokens than the {tokens_bl.shape[1]} that MineCLIP has places for, or it "
                    f"would be cut off: say {text!r:.60} in fewer words."
                )
            embedding_bc = self._policy.mineclip.encode_text(tokens_bl.to(device))
        vector: npt.NDArray[np.float32] = embedding_bc[0].cpu().numpy()
        return vector


def _tokens(policy: Any, text: str) -> Tensor:
    """int64 [1, 77], zeros behind.

    Raises:
        WeightsError: the tokenizer is neither in the hub's cache nor can it be had.
    """
    try:
        tokens_bl: Tensor = policy.mineclip.clip_model.tokenize_text([text])
    except OSError as error:
        raise WeightsError(
            "MineCLIP reads texts with the tokenizer of openai/clip-vit-base-patch16, which cannot be had "
            f"({str(error).splitlines()[0]:.200}); put it into the hub's cache: hf download openai/clip-vit-base-patch16 "
            "--include '*.json'"
        ) from error
    return tokens_bl


def guided_latents(latents_bgc: Tensor, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """Latents whose distribution of actions is the guided one: float32 [n, C], fresh.

    The guided policy is (1+s) log p(a | condition) - s log p(a), normalised. `pi_head` is linear up to the normalisation, so
    (1+s) z - s z', with z the latent under the condition and z' the one without, has that very distribution.
    Source: STEVE-1 (arXiv 2306.00937), on classifier-free guidance.

    Args:
        latents_bgc: float32 [n, G, C]; G is 2 when any row is guided, the second latent being the one without condition.
        rows: entries of their conditions.
    """
    if latents_bgc.shape[1] == 1:
        return latents_bgc[:, 0].clone()
    scale_b1 = torch.tensor([[row["cond_scale"]] for row in rows], device=latents_bgc.device, dtype=torch.float32)
    return (1 + scale_b1) * latents_bgc[:, 0] - scale_b1 * latents_bgc[:, 1]
