"""For each kind of policy: what rows are told to do, what a step is given, and how the policy itself is called on one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.encoders.minestudio.policies import Alone, resets, seen_by_heads
from vpt_gym.encoders.minestudio import PolicyEncoder, PolicyStream
from vpt_gym.resize import resize

TOLERANCE = 1e-4


class Case:
    """A policy that takes no condition and reads frames alone."""

    conditions: list[Any] = [None]  # noqa: RUF012 - read only

    def __init__(self, policy: Any, size: int = 128) -> None:
        self.policy, self.size = policy, size

    def given(self, frames_nhwc: np.ndarray, times: list[int]) -> Any:
        """What `step` is given for these frames of rows, the n-th of which is its row's `times[n]`-th."""
        return frames_nhwc

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        """The policy's own input for one frame of one row."""
        return {"image": torch.from_numpy(resize(frame_hwc[None], self.size))[None]}

    def initial(self, condition: Any) -> Any:
        return self.policy.initial_state(1)


class SteveCase(Case):
    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        draw = np.random.default_rng(7)
        # Guidance multiplies the rounding of both latents, whoever computes them, by 1 + 2s in all.
        scales = (2.0, 0.0, 0.5, 1.0)
        self.conditions = [
            {"mineclip_embeds": draw.standard_normal(512).astype(np.float32), "cond_scale": scale} for scale in scales
        ]

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        embeds = torch.from_numpy(condition["mineclip_embeds"])[None]
        told = {"cond_scale": condition["cond_scale"], "mineclip_embeds": embeds}
        return {**super().inputs(frame_hwc, time, condition), "condition": told}

    def initial(self, condition: Any) -> Any:
        return self.policy.initial_state(condition, 1)


class GrootCase(Case):
    def __init__(self, policy: Any, videos: list[Path]) -> None:
        super().__init__(policy, 160)
        self.conditions = list(videos)

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        return {**super().inputs(frame_hwc, time, condition), "ref_video_path": str(condition)}


class RocketCase(Case):
    """Masks are rectangles that move, on a grid of their own; ids come in turn."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy, 160)

    @staticmethod
    def mask(time: int) -> np.ndarray:
        mask = np.zeros((90, 120), np.bool_)
        mask[time % 50 : time % 50 + 30, 3 * time % 60 : 3 * time % 60 + 45] = True
        return mask

    @staticmethod
    def identity(time: int) -> int:
        return time % 10 - 1

    def given(self, frames_nhwc: np.ndarray, times: list[int]) -> Any:
        return {
            "image": frames_nhwc,
            "obj_mask": np.stack([self.mask(time) for time in times]),
            "obj_id": np.array([self.identity(time) for time in times]),
        }

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        mask = self.mask(time)[np.arange(160) * 90 // 160][:, np.arange(160) * 120 // 160]
        segment = {
            "obj_mask": torch.from_numpy(mask.astype(np.float32))[None, None],
            "obj_id": torch.tensor([[self.identity(time)]]),
        }
        return {**super().inputs(frame_hwc, time, condition), "segment": segment}


def disagreement(case: Case, encoder: PolicyEncoder, frames: np.ndarray, *, seed: int = 5, rate: float = 0.03) -> float:
    """The largest difference between rows stepped together and each row stepped alone through the policy's `get_action`.

    Of log-probabilities and of values, which the policy's own heads make of the latents. Random subsets of the rows are
    stepped; episodes open at random; conditions are set at random times, in the middle of episodes too; and half way through,
    the stream is replaced by another that took over its state.

    Args:
        case: how the policy is called.
        encoder: of the same policy.
        frames: uint8 [rows, T, H, W, 3].
        seed: of all that is random.
        rate: how often an episode opens.
    """
    rows, steps = frames.shape[:2]
    draw = np.random.default_rng(seed)
    first = resets(rows, steps, seed=seed, rate=rate)
    wanted = [case.conditions[row % len(case.conditions)] for row in range(rows)]
    running = list(wanted)
    stream: PolicyStream = encoder.stream(rows)
    prepared = {id(condition): encoder.prepare_condition(condition) for condition in case.conditions}
    for row in range(rows):
        stream.set_condition(prepared[id(wanted[row])], rows=[row])
    alone = [Alone(case.policy, lambda row=row: case.initial(running[row])) for row in range(rows)]
    times = [0] * rows
    worst = 0.0
    for step in range(steps):
        chosen = [row for row in draw.permutation(rows).tolist() if draw.random() < 0.8 or step == 0]
        if draw.random() < 0.1:
            row = int(draw.integers(rows))
            wanted[row] = case.conditions[int(draw.integers(len(case.conditions)))]
            stream.set_condition(prepared[id(wanted[row])], rows=[row])
        if step == steps // 2:
            replaced = encoder.stream(rows)
            replaced.load_state_dict(stream.state_dict())
            stream = replaced
        if not chosen:
            continue
        now = [times[row] for row in chosen]
        opens = first[chosen, now]
        pictures = frames[chosen, now]
        latents = stream.step(case.given(pictures, now), opens, rows=chosen)
        logits, values = seen_by_heads(case.policy, latents)
        for position, row in enumerate(chosen):
            if opens[position]:
                running[row] = wanted[row]
            own = case.inputs(pictures[position], now[position], running[row])
            own_logits, own_value = alone[row].step(own, opens=bool(opens[position]))
            for part, expected in own_logits.items():
                worst = max(worst, float((logits[part][position] - expected[0]).abs().max()))
            if not _guided(running[row]):  # the policy's value is not that of the guided latent
                worst = max(worst, float((values[position] - own_value[0]).abs().max()))
            times[row] += 1
    return worst


def _guided(condition: Any) -> bool:
    return isinstance(condition, dict) and condition.get("cond_scale", 0) != 0
