"""A PPO iteration on latents beside one with VPT inside the policy, and the bytes of SB3's real buffers, as Markdown.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/ppo_iteration.py --encoder random:2x --steps 128

8 environments that hand out prepared frames, 10 epochs, minibatches of 64, a linear head. The extractor runs our own fast
network on each frame of each minibatch, as if every frame opened an episode: it has no memory. MineStudio's network in its
place would be slower.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from prepared import PreparedVecEnv
from shared import encoder_words, facts, folder, load, machine_words, markdown, parser, save
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from vpt_gym.bench.pictures import Pictures
from vpt_gym.encoders.protocol import Encoder, Stream
from vpt_gym.wrappers.sb3 import VecVPTLatent

N_ENVS = 8
N_EPOCHS = 10
MINIBATCH = 64


class ExtractorOfFrames(BaseFeaturesExtractor):
    """VPT as a features extractor: every frame of every minibatch goes through the frozen network again.

    An extractor sees shuffled minibatches and has no memory, so each frame is encoded as if it opened an episode. That is
    generous to this rival: it runs on our own fast network, and gives worse latents than a network that remembers.

    Args:
        observation_space: an image, channels first, as SB3 hands it to a CNN.
        encoder: the frozen network.
    """

    def __init__(self, observation_space: gym.spaces.Box, encoder: Encoder) -> None:
        super().__init__(observation_space, features_dim=encoder.latent_size)
        self.encoder = encoder
        self._streams: dict[int, Stream] = {}

    def forward(self, frames_nchw: Tensor) -> Tensor:
        """Float pixels 0 to 255 [n, 3, size, size], as SB3 makes them -> latents [n, D]."""
        frames_nhwc = frames_nchw.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        rows = len(frames_nhwc)
        if rows not in self._streams:
            self._streams[rows] = self.encoder.stream(rows)
        return self._streams[rows].step(frames_nhwc, np.ones(rows, np.bool_)).to(frames_nchw.device)


class _Phases(BaseCallback):
    """When the rollout was complete."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout_ended = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollout_ended = time.perf_counter()


def compare_iterations(encoder: Encoder, pictures: Pictures, n_steps: int) -> dict[str, Any]:
    """Times whole PPO iterations of both ways, on the same frames, network, head and hyperparameters.

    The order is latents, extractor, latents: the rival's iteration, which takes minutes with a large network, lies between
    two of ours. Each way first does a small iteration that is not counted.

    Args:
        encoder: the frozen network, for both.
        pictures: the frames.
        n_steps: steps of each of the 8 environments in one iteration.

    Returns:
        For the JSON: seconds of rollout and optimisation of each iteration, their ratio, and the bytes of the buffers.
    """
    ways = {"latents": _on_latents, "extractor": _in_policy}
    small = min(n_steps, 8)
    for make in ways.values():
        _iteration(make(encoder, pictures, small))
    order = ("latents", "extractor", "latents")
    iterations: list[dict[str, Any]] = []
    buffers: dict[str, dict[str, int]] = {}
    for number, name in enumerate(order, start=1):
        model = ways[name](encoder, pictures, n_steps)
        iterations.append({"way": name, **_iteration(model)})
        buffers[name] = _bytes(model.rollout_buffer)
        print(f"iteration {number} of {len(order)}: {iterations[-1]['seconds']:.1f} s", file=sys.stderr)
    mean = {name: sum(one["seconds"] for one in iterations if one["way"] == name) / order.count(name) for name in ways}
    return {
        "precision": encoder.precision,
        "n_envs": N_ENVS,
        "n_steps": n_steps,
        "n_epochs": N_EPOCHS,
        "minibatch": min(MINIBATCH, N_ENVS * n_steps),
        "iterations": iterations,
        "seconds": mean,
        "speed_over_extractor": mean["extractor"] / mean["latents"],
        "buffer_bytes": buffers,
        "observations_smaller": buffers["extractor"]["observations"] / buffers["latents"]["observations"],
    }


def _on_latents(encoder: Encoder, pictures: Pictures, n_steps: int) -> PPO:
    venv = VecVPTLatent(PreparedVecEnv(N_ENVS, pictures), encoder)
    return PPO("MlpPolicy", venv, **_hyperparameters(n_steps), device="cpu", policy_kwargs={"net_arch": []})


def _in_policy(encoder: Encoder, pictures: Pictures, n_steps: int) -> PPO:
    return PPO(
        "CnnPolicy",
        PreparedVecEnv(N_ENVS, pictures),
        **_hyperparameters(n_steps),
        device=encoder.device,
        policy_kwargs={
            "net_arch": [],
            "features_extractor_class": ExtractorOfFrames,
            "features_extractor_kwargs": {"encoder": encoder},
            "normalize_images": False,
        },
    )


def _hyperparameters(n_steps: int) -> dict[str, Any]:
    return {"n_steps": n_steps, "batch_size": min(MINIBATCH, N_ENVS * n_steps), "n_epochs": N_EPOCHS, "seed": 0}


def _iteration(model: PPO) -> dict[str, float]:
    phases = _Phases()
    start = time.perf_counter()
    model.learn(N_ENVS * model.n_steps, callback=phases)
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "rollout_seconds": phases.rollout_ended - start,
        "optimisation_seconds": end - phases.rollout_ended,
    }


def _bytes(buffer: RolloutBuffer) -> dict[str, int]:
    """Bytes of the real buffer's observations, and of all its arrays."""
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    return {"observations": buffer.observations.nbytes, "all": sum(array.nbytes for array in arrays)}


def main() -> None:
    options = parser("ppo_iteration", __doc__, encoder=True)
    options.add_argument("--steps", type=int, default=128, help="steps of each environment (default: 128)")
    arguments = options.parse_args()
    out = folder("ppo_iteration", arguments.out)
    encoder, pictures = load(arguments)
    record = facts(encoder.device, arguments)
    found = record["policy"] = compare_iterations(encoder, pictures, arguments.steps)
    print(
        f"One PPO iteration: {N_ENVS} environments, {arguments.steps} steps, {N_EPOCHS} epochs, minibatches of "
        f"{found['minibatch']}; {encoder_words(encoder)}. {machine_words(record)}\n"
    )
    rows = [["", "rollout s", "optimisation s", "in all s", "observations MB", "buffer MB"]]
    for one in found["iterations"]:
        words = {"latents": "VecVPTLatent", "extractor": "features extractor"}[one["way"]]
        seconds = [f"{one[key]:,.1f}" for key in ("rollout_seconds", "optimisation_seconds", "seconds")]
        sizes = found["buffer_bytes"][one["way"]]
        rows.append([words, *seconds, f"{sizes['observations'] / 1e6:.1f}", f"{sizes['all'] / 1e6:.1f}"])
    print(markdown(rows, left=(0,)))
    ratio, smaller = found["speed_over_extractor"], found["observations_smaller"]
    print(f"\n{ratio:.1f} times faster; observations {smaller:.1f} times smaller.")
    save(out, "ppo_iteration", record)


if __name__ == "__main__":
    main()
