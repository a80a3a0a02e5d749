"""The scaling of latents and rewards, Stable-Baselines3's VecNormalize, kept as JSON: numbers, and nothing that runs."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import read_json, write_json
from vpt_gym.wrappers.goals import GoalSpace

__all__ = ["read_pickled_scaling", "read_scaling", "scaled", "scaling_values", "write_scaling"]

FORMAT: Final = "vpt-gym vecnormalize 1"
NUMBERS: Final = ("clip_obs", "clip_reward", "gamma", "epsilon")
SWITCHES: Final = ("norm_obs", "norm_reward")
LATENT: Final = "latent"
"""The entry of the statistics that are the latent's, also where the observation is the latent alone."""


def scaled(venv: VecEnv, *, gamma: float, observations: bool = True) -> VecNormalize:
    """VecNormalize around environments of latents: the latent and the kept entries that are numbers, a Box each, are scaled;
    pictures, which the policy scales itself, and embedded goals are not.

    Args:
        venv: the environments.
        gamma: discount of the returns that rewards are scaled by.
        observations: whether latents are scaled too, or rewards alone.
    """
    return VecNormalize(venv, gamma=gamma, norm_obs=observations, norm_obs_keys=_scaled_keys(venv, observations))


def _scaled_keys(venv: VecEnv, observations: bool) -> list[str] | None:
    space = venv.observation_space
    if not observations or not isinstance(space, spaces.Dict):
        return None
    return [key for key, entry in space.spaces.items() if _is_scaled(entry)]


def _is_scaled(entry: spaces.Space[Any]) -> bool:
    return isinstance(entry, spaces.Box) and not isinstance(entry, GoalSpace) and not is_image_space(entry)


def scaling_values(venv: VecNormalize) -> dict[str, Any]:
    """The statistics and settings as JSON values, exactly."""
    observations = _statistics(venv) if venv.norm_obs else {}
    return {
        "format": FORMAT,
        **{name: getattr(venv, name) for name in (*NUMBERS, *SWITCHES)},
        "observations": {key: _numbers(statistics) for key, statistics in observations.items()},
        "returns": _numbers(venv.ret_rms),
    }


def write_scaling(venv: VecNormalize, path: Path) -> None:
    """Write the statistics and settings as JSON.

    Raises:
        WriteError: the system refused.
    """
    write_json(path, scaling_values(venv))


def read_scaling(path: Path, venv: VecEnv) -> VecNormalize:
    """VecNormalize around `venv` with the statistics of a training, which stand still (`training=False`).

    Args:
        path: a `vecnormalize.json` that `vpt-gym train` has written.
        venv: environments with the observations of the training.

    Raises:
        VPTGymError: the file is missing or damaged, or is of other observations.
    """
    values = read_json(path, "the run's model cannot see without it: restore it or train again")
    damaged = f"{path} is damaged: {{}}; restore the file or train again."
    if values.get("format") != FORMAT:
        raise VPTGymError(damaged.format(f"it does not say {FORMAT!r} as its format"))
    for name, kind in (*((name, float) for name in NUMBERS), *((name, bool) for name in SWITCHES)):
        good = isinstance(values.get(name), bool) if kind is bool else _is_number(values.get(name))
        if not good:
            raise VPTGymError(damaged.format(f"its {name} is {values.get(name)!r}"))
    loaded = VecNormalize(
        venv,
        training=False,
        norm_obs_keys=_scaled_keys(venv, values["norm_obs"]),
        **{name: values[name] for name in (*NUMBERS, *SWITCHES)},
    )
    here = _statistics(loaded) if loaded.norm_obs else {}
    given = values.get("observations")
    if not isinstance(given, dict) or set(given) != set(here):
        came = ", ".join(given) if isinstance(given, dict) else "nothing"
        raise VPTGymError(f"{path} is of other observations: it scales {came}, but {', '.join(here)} are there now.")
    for key, statistics in here.items():
        _take(statistics, given[key], key, path)
    _take(loaded.ret_rms, values.get("returns"), "returns", path)
    return loaded


def read_pickled_scaling(path: Path, venv: VecEnv) -> VecNormalize:
    """As `read_scaling`, of the pickle that vpt_gym wrote before. Reading it runs whatever code is in it.

    Raises:
        VPTGymError: the file is damaged or holds another object, or is of other observations.
    """
    try:
        loaded = VecNormalize.load(str(path), venv)
    except (OSError, EOFError, pickle.UnpicklingError, *_OF_DAMAGED_PICKLES) as error:
        raise VPTGymError(
            f"{path} is no saved VecNormalize for these observations ({type(error).__name__}: {error}); restore it or train "
            "again."
        ) from error
    if not isinstance(loaded, VecNormalize):
        raise VPTGymError(f"{path} holds a {type(loaded).__name__}, not a VecNormalize; restore it or train again.")
    loaded.training = False
    return loaded


_OF_DAMAGED_PICKLES: Final = (
    AssertionError,  # VecNormalize's, of other spaces
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What `pickle.load` says of damaged bytes beside its own error."""


def _statistics(venv: VecNormalize) -> dict[str, RunningMeanStd]:
    found: Any = venv.obs_rms
    return found if isinstance(found, dict) else {LATENT: found}


def _numbers(statistics: RunningMeanStd) -> dict[str, Any]:
    return {
        "mean": np.asarray(statistics.mean).tolist(),
        "var": np.asarray(statistics.var).tolist(),
        "count": float(statistics.count),
    }


def _take(statistics: RunningMeanStd, values: object, key: str, path: Path) -> None:
    shape = np.shape(statistics.mean)
    if isinstance(values, Mapping) and _is_number(values.get("count")) and values["count"] >= 0:
        mean, var = (_array(values.get(name), shape) for name in ("mean", "var"))
        if mean is not None and var is not None and (var >= 0).all():
            statistics.mean, statistics.var, statistics.count = mean, var, float(values["count"])
            return
    raise VPTGymError(
        f"{path}: the statistics of {key} are damaged or of other observations; they must be finite numbers of shape "
        f"{shape}, a mean, a variance and a count. Restore the file or train again."
    )


def _array(values: object, shape: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
    """The finite array of that shape, or None; no text and no truth value is a number."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            return None
        numbers: npt.NDArray[np.float64] = array.astype(np.float64)
    except (ValueError, OverflowError):
        return None
    return numbers if numbers.shape == shape and np.isfinite(numbers).all() else None


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
