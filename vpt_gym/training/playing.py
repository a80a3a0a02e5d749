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
from vpt_gym.training.video import EpisodeRecorder

__all__ = ["play_model", "play_random"]

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


def play_random(frames: VecEnv, episodes: int, *, seed: int, reporter: Reporter, stop: StopSignal) -> Score:
    """The random policy's score on environments that still give frames, so that the encoder need not run.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    frames.seed(seed)
    caller = _Caller("random policy", episodes, reporter, stop)
    return _play(RandomPolicy(frames, seed), frames, caller)


def play_model(
    model: BaseAlgorithm,
    venv: VecEnv,
    episodes: int,
    *,
    seed: int,
    deterministic: bool,
    film: Path | None,
    fps: float,
    reporter: Reporter,
    stop: StopSignal,
) -> tuple[Score, Path | None]:
    """The model's score over whole episodes, spread over the environments before the first step, and a film of some.

    With fixed shares per environment (`evaluate_policy`), short episodes don't count more often than long ones.

    Args:
        film: where the film goes; None for no film.
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
    venv.seed(seed)
    caller = _Caller("evaluation", episodes, reporter, stop, recorder)
    score = _play(model, venv, caller, deterministic=deterministic)
    if recorder is None or film is None:
        return score, None
    recorder.save(film)
    return score, film


class _Caller:
    """What `evaluate_policy` calls after every step of every environment."""

    def __init__(
        self, what: str, episodes: int, reporter: Reporter, stop: StopSignal, recorder: EpisodeRecorder | None = None
    ) -> None:
        self.what, self.episodes, self.reporter, self.stop, self.recorder = what, episodes, reporter, stop, recorder
        self.done = 0

    def __call__(self, here: dict[str, Any], _: dict[str, Any]) -> None:
        self.stop.check()
        if self.recorder is not None:
            self.recorder(int(here["i"]), float(here["reward"]), bool(here["done"]))
        if here["done"]:
            self.done += 1
            self.reporter.playing(self.what, self.done, self.episodes)


def _play(policy: BaseAlgorithm | RandomPolicy, venv: VecEnv, caller: _Caller, *, deterministic: bool = False) -> Score:
    returns, _ = evaluate_policy(
        policy, venv, caller.episodes, deterministic=deterministic, callback=caller, return_episode_rewards=True
    )
    assert isinstance(returns, list)
    return Score.of(returns)
