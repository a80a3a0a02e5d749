"""A run's trained policy as a player: one environment, one episode after the other, frames in and actions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from vpt_gym.encoders import Encoder, as_encoder
from vpt_gym.errors import OptionError
from vpt_gym.offline.recorder import Play
from vpt_gym.training.algorithms import blank_envs, load_model, load_statistics
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.evaluate import check_fingerprint
from vpt_gym.training.folder import RunFolder
from vpt_gym.wrappers.observations import LatentObservations

__all__ = ["SavedPlayer"]


class SavedPlayer:
    """Plays as the policy of a run folder does, with actions sampled from it: what `vpt_gym.offline.record` takes.

    Called with a seed, once an episode, it gives a function of environment and observation.

    Attributes:
        image_key: the run's.
    """

    def __init__(self, path: Path) -> None:
        """Loads a run's encoder.

        Args:
            path: a run folder of `vpt-gym train`.

        Raises:
            VPTGymError: it is none or is damaged, or its encoder cannot be had or is not the run's any more.
        """
        self._folder = RunFolder.open(path)
        recorded = self._folder.read_config()
        self._config = TrainingConfig.from_dict(recorded["training"])
        if self._config.pixels != "none":
            raise OptionError(f"{path} trained a network on pixels beside the latent, which cannot be recorded.")
        self.image_key = self._config.image_key
        self._encoder: Encoder = as_encoder(self._config.encoder, self._config.encoder_options)
        check_fingerprint(self._encoder.describe(), recorded["encoder"], path, remedy="where they were")
        self._head: tuple[Any, Any, LatentObservations] | None = None

    def env_kwargs(self) -> dict[str, Any]:
        """What the run's environments were made with."""
        return dict(self._config.env_kwargs)

    def close(self) -> None:
        """Gives back what the encoder holds."""
        self._encoder.close()

    def __call__(self, seed: int) -> Play:
        """A player of one episode, whose draws follow from the seed."""
        stream = self._encoder.stream(1)
        opens, state = True, None

        def play(env: gym.Env[Any, Any], observation: Any) -> Any:
            nonlocal opens, state
            if self._head is None:
                self._head = self._load(env)
            model, scaling, looked = self._head
            if opens:
                model.set_random_seed(seed)
            first = np.array([opens])
            latents = stream.step(looked.seen_of_one(observation), first)
            seen = looked.join(looked.handed_out(latents)[0], observation)
            batch = (
                {key: np.asarray(value)[None] for key, value in seen.items()}
                if isinstance(seen, Mapping)
                else np.asarray(seen)[None]
            )
            if scaling is not None:
                batch = scaling.normalize_obs(batch)
            actions, state = model.predict(batch, state=state, episode_start=first)
            opens = False
            return actions[0]

        return play

    def _load(self, env: gym.Env[Any, Any]) -> tuple[Any, Any, LatentObservations]:
        """Model, scaling or None, and where the image is in what this environment shows."""
        config = self._config
        looked = LatentObservations(
            env, env.observation_space, self._encoder, config.image_key, config.keep, config.env_id, "numpy"
        )
        blank = blank_envs(looked.space, env.action_space, 1)
        venv = load_statistics(config, self._folder, blank, trust=False)
        model = load_model(config, self._folder.model, venv, self._encoder)
        return model, venv if isinstance(venv, VecNormalize) else None, looked
