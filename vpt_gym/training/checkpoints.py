"""Checkpoints that a training goes on from: everything that decides its next step, in files that run nothing."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from vpt_gym.encoders import Encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.rollout.supervision import SupervisedVecEnv
from vpt_gym.running.files import WriteError
from vpt_gym.training.trees import read_tree, write_tree
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["SaveRun", "newest", "resume", "save"]

logger = logging.getLogger("vpt_gym")

FORMAT: Final = "vpt-gym checkpoint 1"
NAME: Final = "step-{:012d}"
OF_NAME: Final = re.compile(r"step-\d{12}")
PARTIAL: Final = ".partial-"

NOT_KEPT: Final = {"verbose", "start_time", "n_envs", "seed", "buffer_size", "action_dim", "_num_timesteps_at_start"}
"""Numbers of models and buffers that are no state."""
FACTS: Final = ("fingerprint", "precision", "frame_size", "latent_size")
"""Of an encoder: what must be the same for a training to go on with it."""
MISFITS: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch, NumPy and Stable-Baselines3 say of state that is another model's."""


class SaveRun(BaseCallback):
    """Saves a training now and then, so that it can go on after whatever ends it.

    Saves between two updates: model, optimisers, replay buffer, VecNormalize, random states, counters, the encoder's memory and
    fingerprint, and the running episodes where environments are deterministic. A checkpoint is written into a folder of its own
    that is renamed when it is whole; then the oldest is removed. `resume` takes the newest up.

    Args:
        folder: of the checkpoints; made if it is not there.
        every: seconds between two checkpoints, at least.
        keep: how many stay.
        extra: gives more values to be kept, which `resume` returns.

    Raises:
        WriteError: from the training, when the system refuses; the checkpoints before are there.
    """

    def __init__(
        self,
        folder: str | Path,
        every: float = 300.0,
        keep: int = 3,
        extra: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.extra = extra
        self._saved = time.monotonic()

    def _on_training_start(self) -> None:
        self._saved = time.monotonic()

    def _on_rollout_start(self) -> None:
        # At its very beginning a training has nothing to save.
        if self.num_timesteps and time.monotonic() - self._saved >= self.every:
            self.save()

    def _on_step(self) -> bool:
        return True

    def save(self) -> Path:
        """Saves now, which must be between two updates."""
        saved = save(self.model, self.folder, self.keep, self.extra() if self.extra else {})
        self._saved = time.monotonic()
        return saved


def save(model: BaseAlgorithm, folder: Path, keep: int, extra: dict[str, Any]) -> Path:
    """Writes a checkpoint of a model that is between two updates, and removes all but the newest `keep`.

    Raises:
        WriteError: the system refused; the checkpoints before are there.
        VPTGymError: the model holds something that cannot be kept.
    """
    target = folder / NAME.format(model.num_timesteps)
    partial = folder / f"{PARTIAL}{target.name}"
    state = _state_of(model, extra)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(left)
        partial.mkdir()
        try:
            write_tree(partial, state)
            for file in (*partial.iterdir(), partial):
                _sync(file)
            if target.exists():  # of the same moment: damaged, or saved once more
                _remove(target)
            partial.rename(target)
            _sync(folder)
        finally:
            with suppress(OSError):
                shutil.rmtree(partial)
        for old in _checkpoints(folder)[keep:]:
            _remove(old)
    except OSError as error:
        raise WriteError.of(target, error) from error
    return target


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint of a folder, and what is in it.

    Raises:
        VPTGymError: there is none.
    """
    for place in _checkpoints(folder):
        try:
            state = read_tree(place)
        except VPTGymError as error:
            logger.warning("%s It is passed over.", error)
            continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return place, state
        logger.warning("%s is no checkpoint of this vpt_gym, and is passed over.", place)
    raise VPTGymError(f"{folder} holds no whole checkpoint; the training has to begin anew.")


def resume(model: BaseAlgorithm, folder: str | Path) -> dict[str, Any]:
    """Brings a model that was built as the saved one was to where the newest checkpoint left it.

    Then `model.learn(steps, reset_num_timesteps=False)` goes on. Running episodes go on where every environment is one of
    `vpt_gym.rollout`'s and shows, played again with the same actions, what it showed; else all environments open new ones.

    Args:
        model: with its environments, which were not reset yet.
        folder: that `SaveRun` wrote to.

    Returns:
        What `SaveRun`'s `extra` gave.

    Raises:
        VPTGymError: there is no whole checkpoint, or it is of another model, or of another encoder than the environments have:
            other weights, layer, preprocessing or precision.
    """
    place, state = newest(Path(folder))
    return load(model, place, state)


def load(model: BaseAlgorithm, place: Path, state: dict[str, Any]) -> dict[str, Any]:
    """As `resume`, of what `newest` gave."""
    venv = model.get_env()
    assert venv is not None
    layers = _layers(venv)
    _check_encoder(_encoder_of(layers), state.get("encoder"), place)
    if state.get("algorithm") != type(model).__name__:
        raise VPTGymError(f"{place} is of a {state.get('algorithm')}, not of a {type(model).__name__}.")
    try:
        _load_model(model, state["model"])
        running = _load_layers(layers, state["layers"])
        if not running:
            model._last_obs = None
        # Last: whatever was made on the way may have drawn numbers.
        _load_random(model, state["random"])
        extra: dict[str, Any] = state["extra"]
    except MISFITS as error:
        if isinstance(error, VPTGymError):
            raise
        raise VPTGymError(
            f"{place} does not fit this model and its environments ({type(error).__name__}: {error}); build them as the "
            "training did."
        ) from error
    if not running:
        logger.info("The environments open new episodes; those that were running when the run was saved cannot go on.")
    return extra


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    if not folder.is_dir():
        return []
    return sorted((place for place in folder.iterdir() if OF_NAME.fullmatch(place.name)), reverse=True)


def _remove(place: Path) -> None:
    """Removes a checkpoint so that nobody meets half of it."""
    shutil.rmtree(place.rename(place.with_name(f"{PARTIAL}old-{place.name}")))


def _sync(path: Path) -> None:
    """Has the system write out what it still holds, so that a rename is not on the disk before its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state_of(model: BaseAlgorithm, extra: dict[str, Any]) -> dict[str, Any]:
    venv = model.get_env()
    assert venv is not None
    layers = _layers(venv)
    encoder = _encoder_of(layers)
    facts = encoder.describe() if encoder else {}
    return {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "steps": model.num_timesteps,
        "encoder": {name: facts[name] for name in ("source", *FACTS)} if encoder else None,
        "model": _state_of_model(model),
        "layers": [(type(layer).__name__, _state_of_layer(layer)) for layer in layers],
        "random": _random_state(model),
        "extra": extra,
    }


def _layers(venv: VecEnv) -> list[VecEnv]:
    found = [venv]
    while isinstance(found[-1], VecEnvWrapper):
        found.append(found[-1].venv)
    return found


def _encoder_of(layers: list[VecEnv]) -> Encoder | None:
    return next((layer.encoder for layer in layers if isinstance(layer, VecVPTLatent)), None)


def _check_encoder(encoder: Encoder | None, saved: Mapping[str, Any] | None, place: Path) -> None:
    here = encoder.describe() if encoder else None
    for name in FACTS:
        mine, theirs = (None if facts is None else facts.get(name) for facts in (here, saved))
        if mine != theirs:
            raise VPTGymError(
                f"{place} was made with another encoder: its {name} is {theirs}, and here it is {mine} (fingerprints "
                f"{str((saved or {}).get('fingerprint'))[:12]} and {str((here or {}).get('fingerprint'))[:12]}); load the "
                "weights, the layer and the precision of the training."
            )


def _numbers(owner: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(owner).items() if type(v) in (bool, int, float) and k not in NOT_KEPT}


def _set_numbers(owner: Any, numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if type(vars(owner).get(name)) in (bool, int, float) and name not in NOT_KEPT:
            setattr(owner, name, value)


def _state_of_model(model: BaseAlgorithm) -> dict[str, Any]:
    _, variables = model._get_torch_save_params()
    buffer = getattr(model, "replay_buffer", None)
    lstm = getattr(model, "_last_lstm_states", None)
    return {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name) for name in variables},
        "numbers": _numbers(model),
        "last": [model._last_obs, model._last_original_obs, model._last_episode_starts],
        "lstm": None if lstm is None else [tuple(part) for part in lstm],
        "episodes": [_plain(info) for info in model.ep_info_buffer or ()],
        "successes": [float(success) for success in model.ep_success_buffer or ()],
        "buffer": None if buffer is None else _state_of_buffer(buffer),
    }


def _load_model(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
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
    return {"numbers": _numbers(buffer), "arrays": arrays}


def _load_buffer(buffer: Any, state: Mapping[str, Any]) -> None:
    for name, value in state["arrays"].items():
        mine = vars(buffer)[name]
        pairs = [(mine[key], value[key]) for key in mine] if isinstance(mine, dict) else [(mine, value)]
        for array, saved in pairs:
            array[: len(saved)] = saved
    _set_numbers(buffer, state["numbers"])


def _state_of_layer(layer: VecEnv) -> Any:
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


def _load_layers(layers: list[VecEnv], saved: list[Any]) -> bool:
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


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [keys, int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(model.device) if model.device.type == "cuda" else None,
        "actions": model.action_space.np_random.bit_generator.state,
    }


def _load_random(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(("MT19937", *state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and model.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], model.device)
    model.action_space.np_random.bit_generator.state = state["actions"]
