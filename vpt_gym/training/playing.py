"""Playing whole episodes: a model on latents, or the random policy on the same environments without the encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.running.stopping import StopSignal
from vpt_gym.training.report import Reporter, Score

__all__ = ["play_model", "play_random"]

Array = npt.NDArray[Any]


class Watcher(Protocol):
    """Sees each step of an evaluation, as `evaluate_policy` offers it."""

    def __call__(self, env_index: int, reward: float, done: bool) -> None: ...


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
    return _play(
        RandomPolicy(frames, seed), frames, episodes, False, _caller("random policy", episodes, reporter, stop)
    )


def play_model(
    model: BaseAlgorithm,
    venv: VecEnv,
    episodes: int,
    *,
    seed: int,
    deterministic: bool,
    reporter: Reporter,
    stop: StopSignal,
    watcher: Watcher | None = None,
) -> Score:
    """The model's score over whole episodes, spread over the environments before the first step.

    With fixed shares per environment (`evaluate_policy`), short episodes don't count more often than long ones.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    venv.seed(seed)
    return _play(model, venv, episodes, deterministic, _caller("evaluation", episodes, reporter, stop, watcher))


def _play(
    policy: BaseAlgorithm | RandomPolicy,
    venv: VecEnv,
    episodes: int,
    deterministic: bool,
    callback: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Score:
    returns, _ = evaluate_policy(
        policy, venv, episodes, deterministic=deterministic, callback=callback, return_episode_rewards=True
    )
    assert isinstance(returns, list)
    return Score.of(returns)


def _caller(
    what: str, episodes: int, reporter: Reporter, stop: StopSignal, watcher: Watcher | None = None
) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    done = 0

    def callback(here: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal done
        stop.check()
        if watcher is not None:
            watcher(int(here["i"]), float(here["reward"]), bool(here["done"]))
        if here["done"]:
            done += 1
            reporter.playing(what, done, episodes)

    return callback
