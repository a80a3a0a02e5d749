"""What one trained policy saw and got, for probes: frames, and the reward that came after each of them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vpt_gym.compare.results import Result
from vpt_gym.encoders import load_encoder
from vpt_gym.frames import find_frames
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.config import FleetConfig
from vpt_gym.training.environments import latent_envs
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.pixels import IMAGE
from vpt_gym.training.seeds import Purpose, seeds_of

__all__ = ["AHEAD", "Played", "play_and_keep", "to_come"]

FRAMES: Final = 4_000
"""Of all environments together, 200 MB at 128 pixels a side,"""
MOST_ENVS: Final = 8
"""from so few that each plays long enough to be split in time."""
AHEAD: Final = 50
"""Steps that a frame's reward to come looks ahead."""


@dataclass(frozen=True)
class Played:
    """What N environments showed in T steps.

    Attributes:
        frames_ntHWC: uint8 [N, T, size, size, 3].
        first_nt: bool [N, T], True where a frame opens an episode.
        to_come_nt: float64 [N, T], discounted reward of the next steps; NaN where it is not known.
    """

    frames_ntHWC: npt.NDArray[np.uint8]  # noqa: N815 - H and W are heights and widths everywhere
    first_nt: npt.NDArray[np.bool_]
    to_come_nt: npt.NDArray[np.float64]


def play_and_keep(result: Result, fleet: FleetConfig) -> Played:
    """Play on with the policy of a finished run, actions sampled, and keep what it saw.

    Raises:
        VPTGymError: the run's environment, encoder or model cannot be had.
    """
    training, folder = result.cell.training, RunFolder(result.cell.folder)
    n_envs = min(training.n_envs, MOST_ENVS)
    seeds = seeds_of(training.seed, Purpose.EVAL_COMMAND, n_envs)
    with (
        closing(load_encoder(training.encoder, **training.encoder_options)) as encoder,
        closing(latent_envs(training, encoder, n_envs, fleet)) as latents,
    ):
        workers: Any = latents.unwrapped
        key = IMAGE if training.pixels != "none" else training.image_key
        latents.venv = camera = _Camera(latents.venv, key, encoder.frame_size)
        venv = load_statistics(training, folder, latents, trust=False)
        model = load_model(training, folder.model, venv, encoder)
        model.set_random_seed(seeds.actions)
        workers.seed_each(seeds.envs)
        observations: Any = venv.reset()
        state = None
        starts = np.ones(n_envs, np.bool_)
        for _ in range(-(-FRAMES // n_envs)):
            actions, state = model.predict(observations, state=state, episode_start=starts, deterministic=False)
            observations, _, starts, _ = venv.step(actions)
        return camera.played(float(training.resolved.get("gamma", 0.99)))


class _Camera(VecEnvWrapper):
    """Keeps copies of all frames, rewards and ends that pass through it."""

    def __init__(self, venv: VecEnv, image_key: str | None, size: int) -> None:
        super().__init__(venv)
        space = venv.observation_space
        self.source = find_frames(space, image_key if hasattr(space, "spaces") else None, owner="probe", size=size)
        self.frames: list[npt.NDArray[np.uint8]] = []
        self.rewards: list[npt.NDArray[np.float64]] = []
        self.dones: list[npt.NDArray[np.bool_]] = []

    def reset(self) -> Any:
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        self.keep(observations)
        return observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.reset_infos = self.venv.reset_infos
        self.rewards.append(np.array(rewards, np.float64))
        self.dones.append(np.array(dones, np.bool_))
        self.keep(observations)
        return observations, rewards, dones, infos

    def keep(self, observations: Any) -> None:
        self.frames.append(np.array(self.source.of(observations, self.num_envs)))

    def played(self, gamma: float) -> Played:
        rewards_nt, dones_nt = np.stack(self.rewards, axis=1), np.stack(self.dones, axis=1)
        first_nt = np.concatenate([np.ones((self.num_envs, 1), np.bool_), dones_nt[:, :-1]], axis=1)
        return Played(np.stack(self.frames[:-1], axis=1), first_nt, to_come(rewards_nt, dones_nt, gamma))


def to_come(
    rewards_nt: npt.NDArray[np.float64], dones_nt: npt.NDArray[np.bool_], gamma: float, ahead: int = AHEAD
) -> npt.NDArray[np.float64]:
    """The discounted reward of the next steps of each episode.

    Args:
        rewards_nt: float64 [N, T], of the step that follows frame t.
        dones_nt: bool [N, T], whether that step ends the episode.
        gamma: discount of a step.
        ahead: how many steps count.

    Returns:
        float64 [N, T]; NaN where neither so many steps nor the end of the episode follow.
    """
    count, length = rewards_nt.shape
    found = np.full((count, length), np.nan)
    for t in range(length):
        total, going = np.zeros(count), np.ones(count, np.bool_)
        for k in range(min(ahead, length - t)):
            total += np.where(going, gamma**k * rewards_nt[:, t + k], 0)
            going &= ~dones_nt[:, t + k]
        known = ~going | (t + ahead <= length)
        found[known, t] = total[known]
    return found
