"""What decides a training's next step, taken out of a model and its environments and put back, as plain values."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from vpt_gym.errors import VPTGymError
from vpt_gym.rollout.supervision import SupervisedVecEnv
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = [
    "layers_of",
    "load_layers",
    "load_model",
    "load_random",
    "numbers_of",
    "random_state",
    "state_of_layer",
    "state_of_model",
]

NOT_KEPT: Final = {"verbose", "start_time", "n_envs", "seed", "buffer_size", "action_dim", "_num_timesteps_at_start"}
"""Numbers of models and buffers that are no state."""


def layers_of(venv: VecEnv) -> list[VecEnv]:
    """A VecEnv and what it wraps, down to the one that has environments."""
    found = [venv]
    while isinstance(found[-1], VecEnvWrapper):
        found.append(found[-1].venv)
    return found


def numbers_of(owner: Any) -> dict[str, Any]:
    """What of a model or a buffer is a number and changes."""
    return {k: v for k, v in vars(owner).items() if type(v) in (bool, int, float) and k not in NOT_KEPT}


def _set_numbers(owner: Any, numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if type(vars(owner).get(name)) in (bool, int, float) and name not in NOT_KEPT:
            setattr(owner, name, value)


def state_of_model(model: BaseAlgorithm) -> dict[str, Any]:
    """Parameters, optimisers, counters, the last observation and the replay buffer."""
    _, variables = model._get_torch_save_params()
    buffer = getattr(model, "replay_buffer", None)
    lstm = getattr(model, "_last_lstm_states", None)
    return {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name) for name in variables},
        "numbers": numbers_of(model),
        "last": [model._last_obs, model._last_original_obs, model._last_episode_starts],
        "lstm": None if lstm is None else [tuple(part) for part in lstm],
        "episodes": [_plain(info) for info in model.ep_info_buffer or ()],
        "successes": [float(success) for success in model.ep_success_buffer or ()],
        "buffer": None if buffer is None else _state_of_buffer(buffer),
    }


def load_model(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Puts back what `state_of_model` gave."""
    model.set_parameters(state["parameters"], exact_match=True, device=model.device)
    for name, value in state["variables"].items():
        recursive_getattr(model, name).data.copy_(value)
    _set_numbers(model, state["numbers"])
    model._last_obs, model._last_original_obs, model._last_episode_starts = state["last"]
    if state["lstm"] is not None:
        lstm: Any = vars(model)["_last_lstm_states"]
        vars(model)["_last_lstm_states"] = type(lstm)(*state["lstm"])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
    if state["buffer"] is not None:
        _load_buffer(vars(model)["replay_buffer"], state["buffer"])


def _plain(info: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) if name != "l" else int(value) for name, value in info.items()}


def _state_of_buffer(buffer: Any) -> dict[str, Any]:
    """A replay buffer's numbers, and of its arrays what is filled."""
    filled = buffer.buffer_size if buffer.full else buffer.pos

    def part(array: Any) -> Any:
        return array[:filled] if array.shape[:1] == (buffer.buffer_size,) else array

    arrays: dict[str, Any] = {}
    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray):
            arrays[name] = part(value)
        elif isinstance(value, dict) and value and all(isinstance(each, np.ndarray) for each in value.values()):
            arrays[name] = {key: part(each) for key, each in value.items()}
    return {"numbers": numbers_of(buffer), "arrays": arrays}


def _load_buffer(buffer: Any, state: Mapping[str, Any]) -> None:
    for name, value in state["arrays"].items():
        mine = vars(buffer)[name]
        pairs = [(mine[key], value[key]) for key in mine] if isinstance(mine, dict) else [(mine, value)]
        for array, saved in pairs:
            array[: len(saved)] = saved
    _set_numbers(buffer, state["numbers"])


def state_of_layer(layer: VecEnv) -> Any:
    """What a layer of the environments keeps between two steps; None where nobody knows."""
    if isinstance(layer, VecNormalize):
        observations: Any = layer.obs_rms if layer.norm_obs else {}
        named = observations if isinstance(observations, dict) else {"": observations}
        return {
            "observations": {key: _statistics(rms) for key, rms in named.items()},
            "rewards": _statistics(layer.ret_rms),
            "returns": layer.returns,
        }
    if isinstance(layer, VecMonitor):
        return {"returns": layer.episode_returns, "lengths": layer.episode_lengths, "count": layer.episode_count}
    if isinstance(layer, VecVPTLatent):
        return {"stream": layer.latent_stream.state_dict(), "opens": layer._opens}
    if isinstance(layer, SupervisedVecEnv):
        return layer.histories()
    return None


def load_layers(layers: list[VecEnv], saved: list[Any]) -> bool:
    """Gives layers back what they kept; whether the running episodes go on."""
    if [name for name, _ in saved] != [type(layer).__name__ for layer in layers]:
        # Environments on other machines, or in another kind of worker, are the same environments.
        saved = [*saved[:-1], (type(layers[-1]).__name__, saved[-1][1])]
        if [name for name, _ in saved] != [type(layer).__name__ for layer in layers]:
            raise VPTGymError(
                f"The environments were wrapped in {', '.join(name for name, _ in saved)}, and are in "
                f"{', '.join(type(layer).__name__ for layer in layers)}; build them as the training did."
            )
    base = layers[-1]
    running = all(state is not None for _, state in saved) and isinstance(base, SupervisedVecEnv)
    if running:
        assert isinstance(base, SupervisedVecEnv)
        running = base.replay(saved[-1][1])
    for layer, (_, state) in zip(layers, saved, strict=True):
        if isinstance(layer, VecNormalize):
            mine: Any = layer.obs_rms if layer.norm_obs else {}
            named = mine if isinstance(mine, dict) else {"": mine}
            for key, rms in named.items():
                _load_statistics(rms, state["observations"][key])
            _load_statistics(layer.ret_rms, state["rewards"])
            layer.returns = np.array(state["returns"])
        elif isinstance(layer, VecMonitor):
            layer.episode_returns, layer.episode_lengths = state["returns"], state["lengths"]
            layer.episode_count = state["count"]
        elif isinstance(layer, VecVPTLatent) and running:
            layer.latent_stream.load_state_dict(state["stream"])
            layer._opens, layer._was_reset = np.array(state["opens"]), True
    return running


def _statistics(rms: RunningMeanStd) -> list[Any]:
    return [np.asarray(rms.mean), np.asarray(rms.var), float(rms.count)]


def _load_statistics(rms: RunningMeanStd, saved: list[Any]) -> None:
    mean, var, count = saved
    if np.shape(mean) != np.shape(rms.mean) or np.shape(var) != np.shape(rms.var):
        raise ValueError(f"statistics of shape {np.shape(mean)}, where {np.shape(rms.mean)} is expected")
    rms.mean, rms.var, rms.count = mean, var, count


def random_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Of every generator that a training draws from."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [keys, int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(model.device) if model.device.type == "cuda" else None,
        "actions": model.action_space.np_random.bit_generator.state,
    }


def load_random(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(("MT19937", *state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and model.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], model.device)
    model.action_space.np_random.bit_generator.state = state["actions"]
