"""The one line that makes many environments from an id, each in a process of its own, behind one encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from vpt_gym.checks import check_count
from vpt_gym.encoders import Encoder, as_encoder
from vpt_gym.errors import OptionError
from vpt_gym.providers import check_registered, make_folder, qualified_id
from vpt_gym.rollout.actors import RayVecEnv
from vpt_gym.rollout.supervision import SupervisedVecEnv
from vpt_gym.rollout.workers import WorkerVecEnv
from vpt_gym.wrappers.resize import ResizeFrame
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["FLEETS", "make_latent_vec_env"]

FLEETS: Final[Mapping[str, type[SupervisedVecEnv]]] = {"processes": WorkerVecEnv, "ray": RayVecEnv}
"""The VecEnvs of supervised environments, by the names that `fleet` takes."""


def make_latent_vec_env(
    env_id: str | Callable[..., gym.Env[Any, Any]],
    n_envs: int = 1,
    *,
    encoder: Encoder | str,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    image_key: str | None = None,
    keep: Sequence[str] = (),
    encoder_options: Mapping[str, Any] | None = None,
    fleet: str | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_dir: str | None = None,
    overlap: bool = False,
    goal: str | None = None,
    goal_key: str | None = None,
    clip: str | None = None,
) -> VecVPTLatent:
    """Makes `n_envs` environments, each in a process of its own, and one encoder for all of them.

    Frames are resized inside the workers to what the encoder looks at, so 49 KB (VPT: 128x128) and not a whole frame cross the
    pipe. With more than one environment a script needs `if __name__ == "__main__":`, as with every SubprocVecEnv.

    Args:
        env_id: id for `gymnasium.make`, or a function that makes an environment. ViZDoom's need no import of ViZDoom.
        n_envs: how many.
        encoder: from `vpt_gym.load_encoder` or `vpt_gym.minestudio.encoder_from_policy`; or a source string.
        seed: of the first environment; the others count on from it.
        env_kwargs: keyword arguments of the environment.
        image_key: key of the image, where not exactly one entry of a Dict observation is an image.
        keep: keys of a Dict observation to hand on beside the latent.
        encoder_options: keyword arguments of `load_encoder`, when `encoder` is a source string.
        fleet: where environments run: `processes` of this machine (`WorkerVecEnv`), or `ray`, its actors on this machine or on
            many (`RayVecEnv`). In both they are watched, and made anew when they crash or hang. By default one environment runs
            in the process itself, unwatched, and several in processes.
        vec_env_cls: another kind of VecEnv, such as SB3's SubprocVecEnv.
        vec_env_kwargs: keyword arguments of the VecEnv, such as `{"deadline": 30.0}`.
        monitor_dir: folder for SB3's Monitor to write episode returns to; each environment has a Monitor in any case.
        overlap: as for `VecVPTLatent`, and so are `goal`, `goal_key` and `clip`.

    Raises:
        ObservationError: as for `VecVPTLatent`.
        VPTGymError: `n_envs` is not a positive whole number, `env_id` is unknown to Gymnasium, or the
            package of a known environment is not installed.
        EnvironmentFailedError: an environment cannot be made in its worker; from the VecEnv, when one has failed too often in a
            row.
    """
    if fleet is not None and vec_env_cls is not None:
        raise OptionError("fleet and vec_env_cls both say where environments run; give one of them.")
    if fleet is not None and fleet not in FLEETS:
        raise OptionError(f"fleet must be one of {', '.join(FLEETS)}, not {fleet!r}.")
    check_count("n_envs", n_envs)
    loaded = as_encoder(encoder, encoder_options)
    if isinstance(env_id, str):
        env_id = qualified_id(env_id)
        check_registered(env_id)
        if n_envs > 1:
            make_folder(env_id)
    if vec_env_cls is None:
        one_here = n_envs == 1 and fleet is None
        vec_env_cls = DummyVecEnv if one_here else FLEETS[fleet or "processes"]
    # A string is no list of keys: ResizeFrame refuses it, in a sentence.
    crossing = keep if isinstance(keep, str) else tuple(dict.fromkeys((*keep, *loaded.also_reads)))
    # Those of them that are no texts cross as they are.
    texts = tuple(dict.fromkeys((*loaded.also_reads, *(() if goal_key is None else (goal_key,)))))
    venv = make_vec_env(
        env_id,
        n_envs=n_envs,
        seed=seed,
        env_kwargs=env_kwargs,
        vec_env_cls=vec_env_cls,  # type: ignore[arg-type]  # SB3 names two of the classes that it takes
        vec_env_kwargs=vec_env_kwargs,
        monitor_dir=monitor_dir,
        wrapper_class=ResizeFrame,
        wrapper_kwargs={"image_key": image_key, "keep": crossing, "size": loaded.frame_size, "texts": texts},
    )
    try:
        return VecVPTLatent(
            venv,
            loaded,
            image_key=image_key,
            keep=keep,
            overlap=overlap,
            goal=goal,
            goal_key=goal_key,
            clip=clip,
        )
    except BaseException:
        # The workers are processes: they must not outlive the failure.
        venv.close()
        raise
