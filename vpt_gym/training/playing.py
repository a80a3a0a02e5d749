"""Playing whole episodes: a model on latents, or the random policy on the same environments without the encoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.running.stopping import StopSignal
from vpt_gym.training.report import Reporter, Score
from vpt_gym.training.seeds import Seeds
from vpt_gym.training.video import EpisodeRecorder

__all__ = ["RandomPolicy", "play"]

Array = npt.NDArray[Any]


class RandomPolicy:
    """Uniform actions, in the form that `evaluate_policy` calls."""

    def __init__(self, venv: VecEnv, seed: int) -> None:
        self.action_space = copy.deepcopy(venv.action_space)
        self.action_space.seed(seed)
        self.num_envs = venv.num_envs

    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions `[num_envs, ...]`, whatever the observation is."""
        del observation, episode_start, deterministic
        return np.stack([np.asarray(self.action_space.sample()) for _ in range(self.num_envs)]), state


def play(
    policy: BaseAlgorithm | RandomPolicy,
    venv: VecEnv,
    episodes: int,
    *,
    seeds: Seeds,
    reporter: Reporter,
    stop: StopSignal,
    deterministic: bool = False,
    film: Path | None = None,
    fps: float = 25.0,
) -> tuple[Score, Path | None]:
    """The score over whole episodes, spread over the environments before the first step, and a film of some.

    With fixed shares per environment (`evaluate_policy`), short episodes don't count more often than long ones.

    Args:
        policy: acts on what `venv` gives: a model on latents, or `RandomPolicy` on frames, so that the encoder need not run.
        venv: the environments, as `latent_envs` makes them.
        episodes: how many.
        seeds: of the environments.
        reporter: told of each episode's end.
        stop: looked at after every step.
        deterministic: take the likeliest action instead of sampling.
        film: where the film goes, `.gif` or `.mp4`; None for no film.
        fps: frames per second at which the environment's steps look natural.

    Returns:
        The score; and `film` if one was made, which takes an environment that renders `rgb_array`.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    recorder = None
    if film is not None and venv.render_mode == "rgb_array":
        # `evaluate_policy` gives the last environments the larger share of the episodes.
        recorder = EpisodeRecorder(venv, venv.num_envs - 1, fps)
    what = "random policy" if isinstance(policy, RandomPolicy) else "evaluation"
    done = 0

    def after_step(here: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal done
        stop.check()
        if recorder is not None:
            recorder(int(here["i"]), float(here["reward"]), bool(here["done"]))
        if here["done"]:
            done += 1
            reporter.playing(what, done, episodes)

    workers: Any = venv.unwrapped
    workers.seed_each(seeds.envs)
    returns, _ = evaluate_policy(
        policy, venv, episodes, deterministic=deterministic, callback=after_step, return_episode_rewards=True
    )
    assert isinstance(returns, list)
    if recorder is None or film is None:
        return Score.of(returns), None
    recorder.save(film)
    return Score.of(returns), film
