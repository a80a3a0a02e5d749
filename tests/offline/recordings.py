"""Small recordings for tests: bars that stand where the action says."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np

from vpt_gym.offline.spaces import text_of

SIZE = 16


def write_recordings(
    folder: Path, lengths: tuple[int, ...], space: gym.Space | None = None, seed: int = 0, **arrays: np.ndarray
) -> Path:
    """Episodes of these lengths in a new folder; the first number of an action shows in its frame."""
    folder.mkdir(parents=True)
    space = space or gym.spaces.Discrete(3)
    space.seed(seed)
    random = np.random.default_rng(seed)
    for number, length in enumerate(lengths):
        actions = np.stack([space.sample() for _ in range(length)])
        frames = random.integers(0, 40, (length, SIZE, SIZE, 3), dtype=np.uint8)
        for step, action in enumerate(actions.reshape(length, -1)[:, 0]):
            frames[step, :, int(action) * 5 : int(action) * 5 + 5] = 230
        extra = {name: values[:length] for name, values in arrays.items()}
        path = folder / f"episode-{number:06d}.npz"
        np.savez(path, frames=frames, actions=actions, action_space=np.array(text_of(space)), **extra)
    return folder
