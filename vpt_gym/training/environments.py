"""From an environment's id to a checked environment, and to many of them behind an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import gymnasium as gym

from vpt_gym.encoders import Encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.frames import find_frames
from vpt_gym.providers import qualified_id
from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.training.algorithms import check_algorithm
from vpt_gym.training.config import ALGORITHMS, FleetConfig, TrainingConfig
from vpt_gym.training.pixels import IMAGE, maker
from vpt_gym.wrappers.goals import goals_of
from vpt_gym.wrappers.observations import check_keep
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["check_env", "latent_envs"]


FRAME_SKIP_ARGUMENTS: Final = ("frame_skip", "frameskip")
"""Names under which well-known environments take how many frames one action lasts."""


def check_env(config: TrainingConfig) -> float:
    """Make the environment once, look at it and close it, so that a mistake costs a second and one sentence.

    The environment is not reset: some start a game engine then, and that belongs into a worker process.

    Returns:
        Frames per second at which its steps look natural, from the env's `render_fps` and its frame skip.

    Raises:
        OptionError: the id is unknown, the environment refuses its arguments, or the algorithm cannot act in it.
        ObservationError: it shows no image or lacks a key.
        VPTGymError: its package is missing.
    """
    try:
        env: gym.Env[Any, Any] = gym.make(qualified_id(config.env_id), **config.env_kwargs)
    except ModuleNotFoundError as error:
        raise VPTGymError(f"{config.env_id} needs a Python module that is not installed: {error}") from error
    except gym.error.UnregisteredEnv as error:
        raise OptionError(
            f"Gymnasium knows no environment {config.env_id!r} ({str(error).strip()}) If a module registers it, "
            f"write module:{config.env_id.rpartition(':')[2]}."
        ) from error
    except (gym.error.Error, TypeError, ValueError, RuntimeError) as error:
        arguments = ", ".join(f"{k}={v!r}" for k, v in config.env_kwargs.items()) or "no arguments"
        raise OptionError(f"{config.env_id} cannot be made with {arguments}: {str(error).strip()}") from error
    try:
        observation_space, action_space = env.observation_space, env.action_space
        fps = _video_fps(env, config.env_kwargs)
    finally:
        env.close()
    # What the workers would find out, each with a traceback of its own.
    find_frames(observation_space, config.image_key, owner=config.env_id)
    check_keep(observation_space, config.keep, config.env_id)
    goals = goals_of(config.goal, config.goal_key, config.clip)
    if goals is not None:
        goals.check(observation_space, config.env_id)
    able, kind = config.algorithm.action_spaces, type(action_space).__name__
    if able and kind not in able:
        others = [name for name, algorithm in ALGORITHMS.items() if kind in algorithm.action_spaces]
        remedy = f"use --algo {' or '.join(others)}" if others else "no algorithm here can act in it"
        raise OptionError(
            f"{config.algo.upper()} acts in {' or '.join(able)}, but the action space of {config.env_id} is {kind}; "
            f"{remedy}."
        )
    check_algorithm(config, observation_space, action_space)
    return fps


def latent_envs(
    config: TrainingConfig, encoder: Encoder, n_envs: int, fleet: FleetConfig | None = None
) -> VecVPTLatent:
    """The run's environments, each in a worker of its own, behind its encoder; `seed_each` gives them their seeds.

    Raises:
        VPTGymError: as for `make_latent_vec_env`.
    """
    env_id: str | Callable[..., gym.Env[Any, Any]] = config.env_id
    image_key, keep = config.image_key, config.keep
    if config.pixels != "none":
        also = encoder.also_reads
        texts = (*also, *(() if config.goal_key is None else (config.goal_key,)))
        env_id = maker(config.env_id, encoder.frame_size, image_key, (*keep, *also), texts)
        image_key, keep = IMAGE, (IMAGE, *keep)
    fleet = fleet or FleetConfig()
    return make_latent_vec_env(
        env_id,
        n_envs,
        encoder=encoder,
        env_kwargs=config.env_kwargs,
        image_key=image_key,
        keep=keep,
        fleet=fleet.fleet,
        vec_env_kwargs=fleet.vec_env_kwargs,
        overlap=fleet.overlap,
        goal=config.goal,
        goal_key=config.goal_key,
        clip=config.clip,
    )


def _video_fps(env: gym.Env[Any, Any], env_kwargs: Mapping[str, Any]) -> float:
    fps = float(env.metadata.get("render_fps") or 30.0)
    for name in FRAME_SKIP_ARGUMENTS:
        skip = env_kwargs.get(name)
        if isinstance(skip, int) and skip > 1:
            return fps / skip
    return fps
