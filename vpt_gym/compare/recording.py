"""What one trained policy saw and got, for probes: frames, the reward that came after each of them, and what the environment
told beside the picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vpt_gym.compare.results import Result
from vpt_gym.encoders import load_encoder
from vpt_gym.frames import find_frames
from vpt_gym.providers import qualified_id
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.config import FleetConfig, TrainingConfig
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
MOST_NUMBERS: Final = 32
"""Larger entries of an observation are no handful of numbers that one would ask about."""


@dataclass(frozen=True)
class Played:
    """What N environments showed in T steps.

    Attributes:
        frames_ntHWC: uint8 [N, T, size, size, 3].
        first_nt: bool [N, T], True where a frame opens an episode.
        to_come_nt: float64 [N, T], discounted reward of the next steps; NaN where it is not known.
        told: float64 [N, T] by name, the numbers that the observation has beside the picture, such as ViZDoom's `HEALTH`.
    """

    frames_ntHWC: npt.NDArray[np.uint8]  # noqa: N815 - H and W are heights and widths everywhere
    first_nt: npt.NDArray[np.bool_]
    to_come_nt: npt.NDArray[np.float64]
    told: Mapping[str, npt.NDArray[np.float64]]


def play_and_keep(result: Result, fleet: FleetConfig) -> Played:
    """Play on with the policy of a finished run, actions sampled, and keep what it saw.

    Raises:
        VPTGymError: the run's environment, encoder or model cannot be had.
    """
    training, folder = result.cell.training, RunFolder(result.cell.folder)
    n_envs = min(training.n_envs, MOST_ENVS)
    numbers = numbers_of(training)
    hidden = set(numbers) - set(training.keep)
    seeds = seeds_of(training.seed, Purpose.EVAL_COMMAND, n_envs)
    with (
        closing(load_encoder(training.encoder, **training.encoder_options)) as encoder,
        closing(
            latent_envs(replace(training, keep=(*training.keep, *sorted(hidden))), encoder, n_envs, fleet)
        ) as latents,
    ):
        workers: Any = latents.unwrapped
        key = IMAGE if training.pixels != "none" else training.image_key
        latents.venv = camera = _Camera(latents.venv, key, encoder.frame_size, numbers)
        venv = load_statistics(training, folder, _Without(latents, hidden) if hidden else latents, trust=False)
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


def numbers_of(training: TrainingConfig) -> dict[str, tuple[str, ...]]:
    """Names of the numbers that an environment's observation has beside the picture, by the key that they lie under."""
    with closing(gym.make(qualified_id(training.env_id), **training.env_kwargs)) as env:
        space = env.observation_space
        game = getattr(env.unwrapped, "game", None)
        variables = [variable.name for variable in game.get_available_game_variables()] if game is not None else []
    found: dict[str, tuple[str, ...]] = {}
    for key, entry in space.spaces.items() if isinstance(space, spaces.Dict) else ():
        if isinstance(entry, spaces.Box) and len(entry.shape) < 2 and entry.dtype.kind in "biuf":
            count = int(np.prod(entry.shape))
            if count == len(variables) and key == "gamevariables":
                found[key] = tuple(variables)
            elif 0 < count <= MOST_NUMBERS:
                found[key] = (key,) if count == 1 else tuple(f"{key}.{place}" for place in range(count))
    return found


class _Without(VecEnvWrapper):
    """Leaves out entries of observations that a policy was not trained with."""

    def __init__(self, venv: VecEnv, keys: Collection[str]) -> None:
        assert isinstance(venv.observation_space, spaces.Dict)
        self._keys = keys
        left = {key: entry for key, entry in venv.observation_space.spaces.items() if key not in keys}
        super().__init__(venv, observation_space=left["latent"] if len(left) == 1 else spaces.Dict(left))

    def reset(self) -> Any:
        return self._left(self.venv.reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._left(info["terminal_observation"])
        return self._left(observations), rewards, dones, infos

    def _left(self, observations: Any) -> Any:
        left = {key: entry for key, entry in observations.items() if key not in self._keys}
        return left["latent"] if len(left) == 1 else left


class _Camera(VecEnvWrapper):
    """Keeps copies of all frames, rewards, ends and told numbers that pass through it."""

    def __init__(self, venv: VecEnv, image_key: str | None, size: int, numbers: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(venv)
        self.numbers = numbers
        self.told: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for names in numbers.values() for name in names}
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
        for key, names in self.numbers.items():
            values_nk = np.array(observations[key], np.float64).reshape(self.num_envs, -1)
            for place, name in enumerate(names):
                self.told[name].append(values_nk[:, place])

    def played(self, gamma: float) -> Played:
        rewards_nt, dones_nt = np.stack(self.rewards, axis=1), np.stack(self.dones, axis=1)
        first_nt = np.concatenate([np.ones((self.num_envs, 1), np.bool_), dones_nt[:, :-1]], axis=1)
        told = {name: np.stack(values[:-1], axis=1) for name, values in self.told.items()}
        return Played(np.stack(self.frames[:-1], axis=1), first_nt, to_come(rewards_nt, dones_nt, gamma), told)


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
