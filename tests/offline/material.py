"""Recordings for the tests: films made with PyAV, episodes as .npz, and an environment that plays frames back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.network import encoder_of, random_net
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.wrappers.single import VPTLatentObservation

__all__ = [
    "Playback",
    "noise",
    "online",
    "require_offline",
    "small_encoder",
    "write_episode",
    "write_film",
    "write_latents",
]

Frames = npt.NDArray[np.uint8]


def require_offline() -> None:
    """Skips the tests of a module where the extra is not installed."""
    for module in ("av", "h5py", "lmdb", "minari", "pyarrow"):
        pytest.importorskip(module)


def small_encoder(seed: int = 0, **options: str) -> VPTEncoder:
    """As deep as every VPT, but quick: small frames, and a memory of 16."""
    config = VPTConfig(hidden_size=64, heads=2, impala_width=1, dense_size=32, frame_size=32, memory=16)
    return encoder_of(random_net(config, seed), **options)


def noise(count: int, seed: int = 0, size: tuple[int, int] = (36, 64)) -> Frames:
    """uint8 [count, height, width, 3], coarse blocks that move, so that a film of them is not blurred to grey."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, *(side // 4 for side in size), 3), np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


def write_film(path: Path, frames: Frames, rate: int = 20) -> Path:
    """An .mp4 of the frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_episode(path: Path, frames: Frames, **columns: Any) -> Path:
    """An .npz, as anybody would write it."""
    np.savez(path, frames=frames, **columns)
    return path


class Playback(gym.Env[Any, Any]):
    """An environment whose episodes are recorded frames, whatever the action."""

    def __init__(self, episodes: list[Frames]) -> None:
        self.episodes = iter(episodes)
        self.observation_space = gym.spaces.Box(0, 255, episodes[0].shape[1:], np.uint8)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.frames = iter(next(self.episodes))
        return next(self.frames), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return next(self.frames), 0.0, False, False, {}


def online(encoder: Any, episodes: list[Frames]) -> list[npt.NDArray[np.float32]]:
    """The latents [T, D] of each episode that the wrapper gives, step by step."""
    env = VPTLatentObservation(Playback(episodes), encoder)
    latents = []
    for frames in episodes:
        rows = [env.reset()[0]]
        rows += [env.step(0)[0] for _ in frames[1:]]
        latents.append(np.stack(rows))
    assert torch.is_grad_enabled()
    return latents


@dataclass
class Made:
    """The original of latents that a test makes up."""

    name: str
    path: Path = Path("made/up")
    part: int = 0


def write_latents(
    path: Path,
    episodes: list[dict[str, Any]],
    action_space: gym.Space[Any] | None = None,
    *,
    dtype: str = "float32",
    layers: tuple[str, ...] = ("final",),
    fingerprint: str = "f" * 64,
    compression: str = "none",
) -> Path:
    """A dataset of given latents, written as `encode` writes it.

    Args:
        episodes: each with `latents` [T, D], `actions` [T - 1, ...] where there is a space, and labels [T].
    """
    from vpt_gym.offline.recordings import ACTED
    from vpt_gym.offline.writing import PieceWriter, assemble

    pieces = []
    size = episodes[0]["latents"].shape[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, episode in enumerate(episodes):
        columns = {key: np.asarray(values) for key, values in episode.items() if key != "latents"}
        count = len(episode["latents"])
        if action_space is not None:
            actions = columns["actions"]
            columns["actions"] = np.concatenate([actions, np.zeros((1, *actions.shape[1:]), actions.dtype)])
            columns |= {"rewards": np.zeros(count), ACTED: np.arange(count) < count - 1}
            columns |= {key: np.zeros(count, bool) for key in ("terminations", "truncations")}
        target = path.with_name(f"{path.name}-{number}.hdf5")
        made: Any = Made(f"made {number}")
        writer = PieceWriter(target, made, f"{number:064x}", number, dtype=dtype, compression=compression)
        writer.append(episode["latents"], np.arange(count) == 0, columns)
        writer.finish()
        pieces.append(target)
    facts = {
        "format": 1,
        "encoder": {"source": "random:made", "fingerprint": fingerprint, "kind": "vpt", "options": {}},
        "layers": list(layers),
        "latent_size": size,
        "dtype": dtype,
        "compression": compression,
    }
    assemble(path, pieces, facts=facts, action_space=action_space, latent_size=size)
    for piece in pieces:
        piece.unlink()
    return path
