"""Small recordings for tests: squares that move to where the action says."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np

from vpt_gym.offline.recording import space_to_json, write_episode

SIZE = 16


def write_recordings(
    folder: Path, lengths: tuple[int, ...], space: gym.Space | None = None, seed: int = 0, **arrays: np.ndarray
) -> Path:
    """Episodes of these lengths; every frame has its number, and so its action, in its pixels."""
    folder.mkdir(parents=True)
    space = space or gym.spaces.Discrete(3)
    space.seed(seed)
    random = np.random.default_rng(seed)
    (folder / "dataset.json").write_text(json.dumps({"action_space": space_to_json(space)}))
    for number, length in enumerate(lengths):
        actions = np.stack([space.sample() for _ in range(length)])
        frames = random.integers(0, 40, (length, SIZE, SIZE, 3), dtype=np.uint8)
        shown = actions.reshape(length, -1)[:, 0]
        for step, action in enumerate(shown):
            frames[step, :, int(action) * 5 : int(action) * 5 + 5] = 230
        extra = {name: values[:length] for name, values in arrays.items()}
        write_episode(folder / f"episode-{number:06d}.npz", {"frames": frames, "actions": actions, **extra})
    return folder
