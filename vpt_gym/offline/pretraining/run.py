"""One pre-training: from recordings and a source of weights to a folder that `load_encoder` opens; resumable."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vpt_gym.encoders import load_encoder
from vpt_gym.encoders.loading import load_network
from vpt_gym.errors import OptionError, RecordingError, VPTGymError
from vpt_gym.offline.pretraining.card import set_log_aside, training_facts, write_card, write_curves
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.engine import accelerator, end_with, import_lightning, progress, rank, stopping
from vpt_gym.offline.pretraining.heads import Parts, parts_of
from vpt_gym.offline.pretraining.module import Pretraining, lightning_module
from vpt_gym.offline.pretraining.objectives import Objective, make_objectives
from vpt_gym.offline.pretraining.parts import choose_parts
from vpt_gym.offline.pretraining.pieces import Loader, Pieces, split
from vpt_gym.offline.pretraining.policy import LOG_STD, TrunkPolicy
from vpt_gym.offline.readers.finding import find_recordings
from vpt_gym.offline.recordings import Recording
from vpt_gym.offline.spaces import common_space
from vpt_gym.running.files import WriteError, claimed_place, read_json, write_json
from vpt_gym.running.stopping import StopSignal
from vpt_gym.running.watching import wandb_run
from vpt_gym.weights import VPTHeads, load_heads, resolve, save_checkpoint
from vpt_gym.weights.files import open_tensor_file

__all__ = ["pretrain"]

logger = logging.getLogger(__name__)

CONFIG_FILE: Final = "pretraining.json"
LAST: Final = Path("checkpoints", "last.ckpt")
STEPS: Final = "trainer/global_step"
"""What Lightning logs its numbers over, on Weights & Biases."""
_OLDER: Final = {"precision": "32-true", "devices": 1}
"""What trainings of before did not record, since they had no choice."""
_MAY_CHANGE: Final = ("steps", "patience", "workers", "device", "validate_every", "wandb")
"""Options that a training that goes on may be given anew."""


def pretrain(config: PretrainingConfig, objectives: Mapping[str, Objective] | None = None) -> Path:
    """Trains a network on recordings.

    Args:
        config: all that decides it. A folder that holds the same training goes on from its last checkpoint.
        objectives: of one's own beside `config.objective`, as MineStudio's `ObjectiveCallback`s are; an attribute `keys` names
            the arrays of the recordings that one reads.

    With several devices Lightning runs the program again for each further one; this call ends those, and only the first
    process goes on behind it.

    Returns:
        The folder: `model.safetensors` and `config.json`, for `load_encoder` and MineStudio's `VPTPolicy.from_pretrained`;
        `README.md`, its model card; `curves.png`; `logs/` for TensorBoard; `checkpoints/` to go on from.

    Raises:
        VPTGymError: recordings or weights are missing, damaged or do not fit; the folder belongs to something else; or the loss
            is not finite, in which case the last checkpoint stays.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the folder is whole, as far as it came; the same call goes on.
    """
    accelerator(config)  # refuses what the machine cannot do before anything is read
    groups = [_recordings(name) for name in config.datasets]
    parts = _common_parts(groups)
    if rank() > 0:
        # A further device's process: the first one holds the folder, and writes.
        end_with(os.getppid())
        last = config.out / LAST
        _train(config, objectives or {}, groups, parts, last if last.exists() else None, None)
        raise SystemExit(0)
    with claimed_place(config.out, folder=True):
        going_on = _claim(config)
        with wandb_run(config.out, _recorded(config), STEPS) if config.wandb else nullcontext() as watched:
            stopped = _train(config, objectives or {}, groups, parts, going_on, watched)
    if stopped:
        raise KeyboardInterrupt
    return config.out


def _train(
    config: PretrainingConfig,
    objectives: Mapping[str, Objective],
    groups: Sequence[Sequence[Recording]],
    parts: Parts,
    going_on: Path | None,
    watched: Any,
) -> bool:
    """Whether it was asked to stop."""
    import_lightning().seed_everything(config.seed, verbose=False)
    net = load_network(config.source, trainable=True, device="cpu")
    policy = TrunkPolicy(net, parts, _heads(config.source, net.config.hidden_size))
    adapter = choose_parts(policy, config.train)

    if config.length > net.config.memory:
        raise OptionError(f"length must be at most the {net.config.memory} frames of the memory, not {config.length}.")
    _check_frames(groups, net.config.frame_size)
    keys = sorted(_keys(config, objectives, groups))
    chosen = dict(zip(("training", "validation"), split(groups, config.validation, config.seed), strict=True))
    pieces = {
        name: Pieces(
            recordings,
            rows=config.rows,
            length=config.length,
            batches=config.steps if name == "training" else None,
            seed=config.seed,
            frame_size=net.config.frame_size,
            keys=keys,
            part=(rank(), config.devices) if name == "training" else (0, 1),
        )
        for name, recordings in chosen.items()
        if recordings
    }
    made = make_objectives(config.objective, policy, pieces["training"][0])
    module = lightning_module(
        policy,
        {**made, **objectives},
        pieces,
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warm_up=config.warm_up,
    )
    stopped, steps = _fit(config, module, pieces, going_on, watched)
    if rank() == 0:
        if adapter is not None:
            adapter.merge_and_unload()
        write_curves(config.out)
        _publish(config, policy, steps)
    return stopped


def _fit(
    config: PretrainingConfig,
    module: Pretraining,
    pieces: Mapping[str, Pieces],
    going_on: Path | None,
    watched: Any,
) -> tuple[bool, int]:
    """Whether it was asked to stop, and the step whose weights the module has at the end."""
    lightning = import_lightning()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoints = config.out / "checkpoints"
    best_by = "val/loss" if "validation" in pieces else "train/loss"
    callbacks, loggers = lightning.pytorch.callbacks, lightning.pytorch.loggers
    stop = StopSignal()
    called = [
        stopping(stop, lambda trainer: trainer.save_checkpoint(config.out / LAST), config.patience),
        callbacks.ModelCheckpoint(checkpoints, "best", monitor=best_by, enable_version_counter=False),
        callbacks.ModelCheckpoint(
            checkpoints, "last", every_n_train_steps=config.validate_every, enable_version_counter=False
        ),
        progress(config.rows * config.length * config.devices),
    ]
    if "validation" in pieces:
        called.append(callbacks.EarlyStopping("val/loss", patience=config.patience, check_finite=False))
    if rank() == 0:
        set_log_aside(config.out)
    logs = [
        loggers.TensorBoardLogger(config.out, "logs", ""),
        loggers.CSVLogger(config.out, "logs", "", flush_logs_every_n_steps=10),
    ]
    with warnings.catch_warnings(), stop:
        # Lightning's advice on workers, on logging intervals and on resuming in the middle of an epoch, which Loader sees to.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer = lightning.Trainer(
                accelerator=accelerator(config),
                devices=config.devices,
                strategy="ddp_find_unused_parameters_true" if config.devices > 1 else "auto",
                precision=config.precision,
                max_epochs=1,
                max_steps=config.steps,
                val_check_interval=min(config.validate_every, config.steps) if "validation" in pieces else None,
                num_sanity_val_steps=0,
                gradient_clip_val=config.clip,
                log_every_n_steps=min(10, config.steps),
                logger=[*logs, *([loggers.WandbLogger(experiment=watched)] if watched is not None else [])],
                callbacks=called,
                enable_model_summary=False,
            )
        except lightning.fabric.utilities.exceptions.MisconfigurationException as error:
            raise OptionError(f"Lightning takes no {config.devices} devices here: {error}") from error
        if trainer.world_size != config.devices:
            raise OptionError(
                f"The environment speaks of {trainer.world_size} processes, and the training is to have {config.devices}: ask "
                "for as many devices."
            )
        if rank() == 0:
            write_json(config.out / CONFIG_FILE, _recorded(config))
        validation = Loader(pieces["validation"], 0) if "validation" in pieces else None
        try:
            trainer.fit(
                module,
                Loader(pieces["training"], config.workers),
                validation,
                ckpt_path=None if going_on is None else str(going_on),
                weights_only=True,
            )
        except OSError as error:  # of a checkpoint or a log: what cannot be read is a RecordingError
            raise error if isinstance(error, VPTGymError) else WriteError.of(config.out, error) from error
    if any(early.wait_count >= early.patience for early in trainer.early_stopping_callbacks):
        # What came after the best has not been worth it.
        best = torch.load(checkpoints / "best.ckpt", map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])
        return stop.requested, int(best["global_step"])
    return stop.requested, int(module.global_step)


def _publish(config: PretrainingConfig, policy: TrunkPolicy, steps: int) -> None:
    """Checkpoint and card, each file whole."""
    facts = training_facts(config, steps)
    with tempfile.TemporaryDirectory(dir=config.out, prefix=".") as place:
        folder = save_checkpoint(policy.net, policy.heads(), Path(place, "encoder"), training=facts)
        for file in sorted(folder.iterdir()):
            file.replace(config.out / file.name)
    fingerprint = load_encoder(str(config.out), device="cpu", backend="plain").fingerprint
    write_card(config.out / "README.md", facts, fingerprint, source=config.out.name, licence=None)


def _recordings(name: str) -> list[Recording]:
    """The recordings of a dataset; what cannot be read is told and left out."""

    def refused(what: str, error: RecordingError) -> None:
        logger.warning("%s is left out: %s", what, error)

    found = list(find_recordings(Path(name).expanduser(), refused))
    without = [recording.name for recording in found if recording.action_space is None]
    if not found or without:
        raise RecordingError(
            f"{name} has no actions{' in ' + without[0] if without else ''}: pre-training learns from recordings "
            "with actions, such as `vpt-gym record` makes."
        )
    return found


def _common_parts(groups: Sequence[Sequence[Recording]]) -> Parts:
    found = [recording for group in groups for recording in group]
    spaces = [recording.action_space for recording in found if recording.action_space is not None]
    common = common_space(spaces)
    if common is None:
        other = next(i for i in range(len(found)) if common_space([spaces[0], spaces[i]]) is None)
        raise RecordingError(
            f"{found[other].path} has actions {spaces[other]}, and {found[0].path} has {spaces[0]}: train on one "
            "action space at a time."
        )
    return parts_of(common)


def _check_frames(groups: Sequence[Sequence[Recording]], size: int) -> None:
    for group in groups:
        height, width = next(group[0].chunks(1)).frames.shape[1:3]
        if max(height, width) < size:
            raise RecordingError(
                f"{group[0].name} has frames of {height}x{width} pixels, and the network reads {size}x{size}: record with "
                f"--frame-size {size}, or train a network that reads smaller ones."
            )


def _keys(
    config: PretrainingConfig, objectives: Mapping[str, Objective], groups: Sequence[Sequence[Recording]]
) -> set[str]:
    """Arrays of the recordings that objectives read."""
    looked_at = [recording for group in groups for recording in (group[0], group[-1])]
    columns = [set(next(recording.chunks(1)).columns) for recording in looked_at]
    wanted = {*config.objective, *(key for each in objectives.values() for key in getattr(each, "keys", ()))}
    keys = {name for name in wanted if any(name in there for there in columns)}
    for recording, there in zip(looked_at, columns, strict=True):
        for name in sorted(keys - there):
            raise RecordingError(
                f"{recording.path} has no {name!r}, which other recordings have: leave out the objective that needs it, or "
                "record anew."
            )
    if {"inverse", "next"} & set(config.objective) and any("played" in there for there in columns):
        keys.add("played")
    return keys


def _heads(source: str, size: int) -> VPTHeads | dict[str, Tensor] | None:
    """The heads beside a network, where it was trained with some; those of continuous actions as tensors."""
    resolved = resolve(source)
    if resolved.weights is None:
        return None
    file = open_tensor_file(resolved.weights)
    names = [name for name in file.infos() if name.startswith(("pi_head", "value_head"))]
    if LOG_STD in names:
        found: dict[str, Tensor] = {}
        file.visit(names, lambda name, tensor: found.update({name: tensor.float().clone()}))
        return found
    return load_heads(resolved, size) if any(name.startswith("pi_head") for name in names) else None


def _recorded(config: PretrainingConfig) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def _claim(config: PretrainingConfig) -> Path | None:
    """The checkpoint to go on from, or None in a new folder."""
    out = config.out
    values = _recorded(config)
    file = out / CONFIG_FILE
    if file.exists():
        there = read_json(file, "restore it, or name another folder")
        changed = [name for name in values if name not in _MAY_CHANGE and (_OLDER | there).get(name) != values[name]]
        if changed:
            raise VPTGymError(
                f"{out} holds a training with another {', '.join(changed)}: give the same options to go on, or name "
                "another folder."
            )
    elif {each.name for each in out.iterdir()} - {"wandb"}:
        raise VPTGymError(f"{out} holds something else than a pre-training: name a new or an empty folder.")
    last = out / LAST
    if not last.exists():
        return None
    try:
        torch.load(last, map_location="meta", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise VPTGymError(f"{last} is damaged ({said}): put best.ckpt in its place, or name another folder.") from error
    return last
