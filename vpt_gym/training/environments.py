"""From an environment's id to a checked environment: registration, missing packages, what the algorithm can act in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym
from gymnasium import spaces

from vpt_gym.errors import VPTGymError
from vpt_gym.frames import find_frames
from vpt_gym.providers import qualified_id
from vpt_gym.training.config import ALGORITHMS, TrainingConfig
from vpt_gym.wrappers.observations import check_keep

__all__ = ["EnvFacts", "check_env"]


FRAME_SKIP_ARGUMENTS: Final = ("frame_skip", "frameskip")
"""Names under which well-known environments take how many frames one action lasts."""


@dataclass(frozen=True)
class EnvFacts:
    """What one look at an environment tells.

    Attributes:
        qualified_id: the id with its module, so that any process can make the environment.
        observation_space: of the environment itself, before any wrapper of ours.
        action_space: of the environment.
        video_fps: frames per second at which its steps look natural, from the env's `render_fps` and its frame skip.
    """

    qualified_id: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    video_fps: float


def check_env(config: TrainingConfig) -> EnvFacts:
    """Make the environment once, look at it and close it, so that a mistake costs a second and one sentence.

    The environment is not reset: some start a game engine then, and that belongs into a worker process.

    Raises:
        VPTGymError: the id is unknown, its package is missing, it refuses its arguments, it shows no image
            or lacks a key, or the algorithm cannot act in it.
    """
    env_id = qualified_id(config.env_id)
    try:
        env: gym.Env[Any, Any] = gym.make(env_id, **config.env_kwargs)
    except ModuleNotFoundError as error:
        raise VPTGymError(f"{config.env_id} needs a Python module that is not installed: {error}") from error
    except gym.error.UnregisteredEnv as error:
        raise VPTGymError(
            f"Gymnasium knows no environment {config.env_id!r} ({str(error).strip()}) If a module registers it, "
            f"write module:{config.env_id.rpartition(':')[2]}."
        ) from error
    except (gym.error.Error, TypeError, ValueError, RuntimeError) as error:
        arguments = ", ".join(f"{k}={v!r}" for k, v in config.env_kwargs.items()) or "no arguments"
        raise VPTGymError(f"{config.env_id} cannot be made with {arguments}: {str(error).strip()}") from error
    try:
        facts = EnvFacts(env_id, env.observation_space, env.action_space, _video_fps(env, config.env_kwargs))
    finally:
        env.close()
    # What the workers would find out, each with a traceback of its own.
    find_frames(facts.observation_space, config.image_key, owner=config.env_id)
    check_keep(facts.observation_space, config.keep, config.env_id)
    able = ALGORITHMS[config.algo].action_spaces
    kind = type(facts.action_space).__name__
    if kind not in able:
        others = [name for name, algorithm in ALGORITHMS.items() if kind in algorithm.action_spaces]
        remedy = f"use --algo {' or '.join(others)}" if others else "no algorithm here can act in it"
        raise VPTGymError(
            f"{config.algo.upper()} acts in {' or '.join(able)}, but the action space of {config.env_id} is {kind}; "
            f"{remedy}."
        )
    return facts


def _video_fps(env: gym.Env[Any, Any], env_kwargs: Mapping[str, Any]) -> float:
    fps = float(env.metadata.get("render_fps") or 30.0)
    for name in FRAME_SKIP_ARGUMENTS:
        skip = env_kwargs.get(name)
        if isinstance(skip, int) and skip > 1:
            return fps / skip
    return fps
