"""Checkpoints that a training goes on from: everything that decides its next step, in files that run nothing."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.encoders import Encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import WriteError
from vpt_gym.training.states import (
    layers_of,
    load_layers,
    load_model,
    load_random,
    random_state,
    state_of_layer,
    state_of_model,
)
from vpt_gym.training.trees import read_tree, write_tree
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["SaveRun", "newest", "resume", "save"]

logger = logging.getLogger("vpt_gym")

FORMAT: Final = "vpt-gym checkpoint 1"
NAME: Final = "step-{:012d}"
OF_NAME: Final = re.compile(r"step-\d{12}")
PARTIAL: Final = ".partial-"

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
    layers = layers_of(venv)
    _check_encoder(_encoder_of(layers), state.get("encoder"), place)
    if state.get("algorithm") != type(model).__name__:
        raise VPTGymError(f"{place} is of a {state.get('algorithm')}, not of a {type(model).__name__}.")
    try:
        load_model(model, state["model"])
        running = load_layers(layers, state["layers"])
        if not running:
            model._last_obs = None
        # Last: whatever was made on the way may have drawn numbers.
        load_random(model, state["random"])
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
    layers = layers_of(venv)
    encoder = _encoder_of(layers)
    facts = encoder.describe() if encoder else {}
    return {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "steps": model.num_timesteps,
        "encoder": {name: facts[name] for name in ("source", *FACTS)} if encoder else None,
        "model": state_of_model(model),
        "layers": [(type(layer).__name__, state_of_layer(layer)) for layer in layers],
        "random": random_state(model),
        "extra": extra,
    }


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
