"""Stable-Baselines3 models for a `TrainingConfig`: built, and built again around the parameters of a run folder."""

from __future__ import annotations

import inspect
import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from vpt_gym.config import FRAME_SIZE
from vpt_gym.encoders import Encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy
from vpt_gym.latents import latent_box
from vpt_gym.training.classes import algorithm_class
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.pixels import IMAGE, extractor, frame_space
from vpt_gym.training.scaling import read_pickled_scaling, read_scaling, scaled
from vpt_gym.wrappers.goals import GOAL, GoalSpace

__all__ = [
    "blank_envs",
    "build_model",
    "check_algorithm",
    "load_model",
    "load_statistics",
    "normalized",
    "read_parameters",
]

HEAD_DEVICE: Final = "cpu"
"""A head of one or two layers spends more time on the way to an accelerator than in its update."""

PARAMETERS: Final = "policy.pth"
"""The policy's parameters, inside of a model.zip."""

SPARE_BYTES: Final = 1 << 20
"""Names, types and shapes in a file of parameters, beside their bytes; plenty."""


def normalized(config: TrainingConfig, venv: VecEnv) -> VecEnv:
    """What the head sees: the latents, scaled if the run says so.

    Most of a latent is the same in every frame of one environment, and returns of some environments go into the hundreds;
    a linear head with PPO's clipped gradients learns from either only slowly. VPT's own heads read latents as they are.
    """
    if not config.normalize:
        return venv
    return scaled(venv, gamma=float(config.resolved.get("gamma", 0.99)), observations=not _has_own_heads(config))


def load_statistics(config: TrainingConfig, folder: RunFolder, venv: VecEnv, *, trust: bool) -> VecEnv:
    """As `normalized`, with the statistics of the training, which then stand still.

    Raises:
        VPTGymError: the run folder lacks them, they are damaged, or they are a pickle that nobody vouches for.
    """
    if not config.normalize:
        return venv
    if folder.scaling.exists() or not folder.pickled_scaling.is_file():
        return read_scaling(folder.scaling, venv)
    if not trust:
        raise VPTGymError(
            f"{folder.pickled_scaling} is a pickle, as vpt_gym wrote it before, and reading a pickle runs whatever code is in "
            "it; if you trust everybody who had this folder in hand, say --trust."
        )
    return read_pickled_scaling(folder.pickled_scaling, venv)


def build_model(config: TrainingConfig, venv: VecEnv, encoder: Encoder, **changes: Any) -> BaseAlgorithm:
    """A fresh model with the run's head and hyperparameters, seeded.

    Args:
        config: the run.
        venv: what the head sees.
        encoder: has the heads that KLPPO trains.
        changes: hyperparameters other than the run's.

    Raises:
        OptionError: the algorithm cannot be built so.
    """
    if not _has_own_heads(config):
        return _build(config, venv, _policy_kwargs(config), changes)
    if config.pixels != "none":
        raise OptionError("KLPPO trains VPT's own heads, which see the latent alone; leave --pixels out.")
    if config.net_arch:
        raise OptionError("KLPPO trains VPT's own heads, which have no net_arch; leave --net-arch out.")
    heads = getattr(encoder, "heads", None)
    if heads is None:
        raise OptionError(
            f"KLPPO trains VPT's own heads, and {encoder.describe()['source']} has none; give VPT weights, or use another "
            "--algo."
        )
    return _build(config, venv, {"heads": heads}, changes)


def check_algorithm(
    config: TrainingConfig, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    """Build the run's algorithm around blank environments, so that what its constructor refuses costs a second.

    Args:
        config: the run.
        observation_space: of the environment; what is kept of it counts.
        action_space: of the environment.

    Raises:
        OptionError: the algorithm cannot act in that space, or refuses a hyperparameter.
    """
    if _has_own_heads(config):
        return  # which say themselves what they fit, once they are loaded
    space: spaces.Space[Any] = latent_box(2)
    entries: dict[str, spaces.Space[Any]] = {}
    if config.pixels != "none":
        entries[IMAGE] = frame_space(FRAME_SIZE)
    if config.keep:
        assert isinstance(observation_space, spaces.Dict)
        entries |= {key: observation_space[key] for key in config.keep}
    if config.goal is not None or config.goal_key is not None:
        entries[GOAL] = GoalSpace(2)
    if entries:
        space = spaces.Dict({"latent": space, **entries})
    blank = blank_envs(space, action_space, config.n_envs)
    small = {"buffer_size": config.n_envs} if "buffer_size" in config.resolved else {}
    _build(config, normalized(config, blank), _policy_kwargs(config), small)


def _policy_kwargs(config: TrainingConfig) -> dict[str, Any]:
    return {"net_arch": list(config.net_arch), **(extractor(config.pixels) if config.pixels != "none" else {})}


def blank_envs(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], n_envs: int) -> DummyVecEnv:
    """Environments with these spaces and nothing in them, for building a model around."""
    return DummyVecEnv([lambda: _Blank(observation_space, action_space) for _ in range(n_envs)])


class _Blank(gym.Env[Any, Any]):
    """Spaces, and nothing in them."""

    render_mode = None

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def _has_own_heads(config: TrainingConfig) -> bool:
    return config.algo == KLPPO.__name__


def _build(
    config: TrainingConfig, venv: VecEnv, policy_kwargs: dict[str, Any], changes: dict[str, Any]
) -> BaseAlgorithm:
    algorithm = algorithm_class(config.algo)
    if "action_masks" in inspect.signature(algorithm.predict).parameters:
        raise OptionError(
            f"{algorithm.__name__} wants a mask of actions at every step, which runs and evaluations do not hand it; train it "
            "in Python on make_latent_vec_env, or use another --algo."
        )
    given = {**config.resolved, **changes}
    # JSON has no tuples, and what Stable-Baselines3 takes a sequence for is one: train_freq=(1, "episode").
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    try:
        return algorithm(
            _policy(config, algorithm, venv),
            venv,
            policy_kwargs=policy_kwargs,
            seed=config.seed,
            device=HEAD_DEVICE if config.pixels == "none" else "auto",
            **options,
        )
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        if isinstance(error, VPTGymError):
            raise
        # Some of Stable-Baselines3's assertions are without words.
        values = ", ".join(f"{name}={value!r}" for name, value in options.items())
        said = str(error).strip().rstrip(".") or f"one of {values} is not what it takes"
        raise OptionError(
            f"{algorithm.__name__} cannot be built for {config.env_id}: {said}. Choose another --algo or other values."
        ) from error


def _policy(config: TrainingConfig, algorithm: type[BaseAlgorithm], venv: VecEnv) -> Any:
    """The policy on numbers, or on a Dict of them, by whatever name the algorithm has it."""
    if _has_own_heads(config):
        return PretrainedHeadPolicy
    wanted = "MultiInput" if isinstance(venv.observation_space, spaces.Dict) else "Mlp"
    for name in algorithm.policy_aliases:
        if name.startswith(wanted):
            return name
    raise OptionError(
        f"{algorithm.__name__} has no policy for Dict observations; leave --keep and --goal out, or use another --algo."
    )


def load_model(config: TrainingConfig, path: Path, venv: VecEnv, encoder: Encoder) -> BaseAlgorithm:
    """The trained model of a run, for playing: built from its config, with the parameters that its model.zip holds.

    Stable-Baselines3's own `load` unpickles whatever a model.zip brings. Here nothing of it is run: of the archive only the
    policy's parameters are read, as plain tensors.

    Raises:
        VPTGymError: the file is no whole model, or its parameters are not those of the run's head on this environment.
    """
    small = {"buffer_size": venv.num_envs} if "buffer_size" in config.resolved else {}
    model = build_model(config, venv, encoder, **small)
    expected = model.policy.state_dict()
    state = read_parameters(path, sum(tensor.nbytes for tensor in expected.values()) + SPARE_BYTES)
    odd = [
        name
        for name in sorted({*expected, *state})
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    ]
    if odd:
        raise VPTGymError(
            f"{path} does not fit {config.env_id} as it is now, or is of another run: its {odd[0]} is "
            f"{_shape(state, odd[0])}, where {_shape(expected, odd[0])} is expected ({len(odd)} parameters differ)."
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VPTGymError(f"{path} is of a run that broke: its {name} holds NaN or infinity; train again.")
    model.policy.load_state_dict(state)
    return model


def _shape(state: dict[str, torch.Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def read_parameters(path: Path, most_bytes: int) -> dict[str, torch.Tensor]:
    """The policy's parameters in a model.zip, or in the safetensors file that `vpt-gym push` makes of it; no pickle is run.

    Args:
        path: the file.
        most_bytes: that they may take.

    Raises:
        VPTGymError: the file is no whole model, or is larger.
    """
    damaged = f"{path} is no whole model: {{}}; restore the file or train again."
    if path.suffix == ".safetensors":
        if path.stat().st_size > most_bytes:
            raise VPTGymError(f"{path} does not fit the run's config: the head has room for {most_bytes:,} bytes.")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise VPTGymError(damaged.format(error)) from error
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(PARAMETERS)
            if member.file_size > most_bytes:
                raise VPTGymError(
                    f"{path} does not fit the run's config: its {PARAMETERS} holds {member.file_size:,} bytes, and the head "
                    f"has room for {most_bytes:,}."
                )
            data = archive.read(member)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            begins = file.read(4) == b"PK\x03\x04"
        what = f"it is truncated or damaged ({error})" if begins else f"it is no zip archive ({error})"
        raise VPTGymError(damaged.format(what)) from error
    except KeyError as error:
        raise VPTGymError(damaged.format(f"it holds no {PARAMETERS}")) from error
    except (OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        # An archive may ask for a password or a compression that nobody has.
        raise VPTGymError(damaged.format(error)) from error
    if not data.startswith(b"PK"):  # what torch wrote before 1.6 is a plain pickle
        raise VPTGymError(damaged.format(f"its {PARAMETERS} is no archive of torch"))
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, *_OF_DAMAGED_TENSORS) as error:
        said = str(error).strip().partition("\n")[0]
        raise VPTGymError(damaged.format(f"its {PARAMETERS} cannot be read as plain tensors ({said})")) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise VPTGymError(damaged.format(f"its {PARAMETERS} is no table of tensors"))
    return dict(state)


_OF_DAMAGED_TENSORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What `torch.load` says of damaged bytes beside the unpickler's own error."""
