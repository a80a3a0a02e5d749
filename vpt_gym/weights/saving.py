"""A network and its heads as a folder that `load_encoder` and MineStudio read."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vpt_gym.config import VPTConfig
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.nn import VPTNet
from vpt_gym.weights.files import ABOUT
from vpt_gym.weights.heads import VPTHeads
from vpt_gym.weights.json_files import NotJSONError, parse_json
from vpt_gym.weights.names import table
from vpt_gym.weights.source import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["policy_options", "save_checkpoint"]


def save_checkpoint(
    net: VPTNet,
    heads: VPTHeads | Mapping[str, Tensor] | None,
    folder: Path | str,
    *,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `model.safetensors`, under VPT's own names, and `config.json` into a folder, whole or not at all.

    `load_encoder(folder)` opens it, and so does MineStudio's `VPTPolicy.from_pretrained(folder)`: for heads of other parts than
    VPT's buttons and camera with `action_space=` beside it; without heads, with heads that MineStudio draws at random.

    Args:
        net: a network as it is defined, such as `load_network` gives it, in any precision, which is kept.
        heads: `encoder.heads`, or `VPTHeads.from_state_dict`; tensors under VPT's names for heads of another kind, such as
            Gaussian ones; None for the network alone.
        folder: new, empty, or one that holds a checkpoint, which is replaced.
        training: how the weights were made, JSON values, for `encoder.describe()`: kept inside `model.safetensors`.

    Returns:
        The folder.

    Raises:
        OptionError: the network's parts were replaced by faster ones, which have no plain tensors any more; or the heads are
            empty or read latents of another length.
        WeightsError: network or heads hold NaN or infinity, or the folder holds something else or cannot be written.
    """
    target = Path(folder).expanduser()
    tensors = _tensors(net, heads)
    metadata = {"format": "pt"} | ({} if training is None else {ABOUT: json.dumps(training)})
    config: dict[str, Any] = {"policy_kwargs": policy_options(net.config)}
    if isinstance(heads, VPTHeads):
        config["temperature"] = heads.temperature
    try:
        if target.exists() and not _replaceable(target):
            raise WeightsError(
                f"{target} holds something else than a checkpoint of VPT; name a new or an empty folder."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.parent, ignore_cleanup_errors=True
        ) as place:
            written, before = Path(place, "new"), Path(place, "old")
            written.mkdir()
            save_file(tensors, written / WEIGHTS_FILE, metadata=metadata)
            (written / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            # safetensors makes a file that its owner alone may read; the umask says who else may.
            shutil.copymode(written / CONFIG_FILE, written / WEIGHTS_FILE)
            if target.exists():
                target.rename(before)
            try:
                written.rename(target)
            except OSError:
                if before.exists():
                    before.rename(target)
                raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{target} cannot be written ({reason}); name a folder of yours.") from error
    return target


def _replaceable(target: Path) -> bool:
    """Whether it is a folder that is empty, or that holds a checkpoint of VPT and nothing else."""
    if not target.is_dir():
        return False
    names = {entry.name for entry in target.iterdir()}
    if not names:
        return True
    if names != {WEIGHTS_FILE, CONFIG_FILE} or not (target / CONFIG_FILE).is_file():
        return False
    try:
        config = parse_json((target / CONFIG_FILE).read_bytes())
    except NotJSONError:
        return False
    return isinstance(config, dict) and "policy_kwargs" in config


def _tensors(net: VPTNet, heads: VPTHeads | Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    state = net.state_dict()
    specs = table(net.config)
    if set(state) != {spec.parameter for spec in specs}:
        raise OptionError(
            "save_checkpoint takes a network as it is defined, but parts of this one were replaced by faster ones, as in an "
            "encoder: take it from vpt_gym.load_network(source)."
        )
    tensors = {spec.vpt_name: state[spec.parameter].detach().cpu().contiguous() for spec in specs}
    if heads is not None and not isinstance(heads, VPTHeads):
        tensors |= {name: tensor.detach().float().cpu().contiguous() for name, tensor in heads.items()}
    broken = [name for name, tensor in tensors.items() if not all(map(math.isfinite, torch.aminmax(tensor)))]
    if broken:
        raise WeightsError(
            f"save_checkpoint: {len(broken)} tensors hold NaN or infinity, such as {broken[0]}, and nothing "
            "could load them: the training has diverged, so save an earlier state of it."
        )
    if not isinstance(heads, VPTHeads):
        return tensors
    if heads.is_empty or heads.latent_size != net.config.hidden_size:
        what = "have no tensors" if heads.is_empty else f"read latents of {heads.latent_size} numbers"
        raise OptionError(
            f"save_checkpoint: the heads {what}, and the network's latents have {net.config.hidden_size}; take both from one "
            "source."
        )
    return tensors | heads.state_dict()


def policy_options(config: VPTConfig) -> dict[str, Any]:
    """The `policy_kwargs` of a published VPT model, at the sizes of `config`.

    MineStudio's own defaults differ from them (no GroupNorm, a memory of 2048), so every one is passed. Source: the
    config.json of MineStudio's VPT checkpoints and OpenAI's `.model` files.
    """
    return {
        "attention_heads": config.heads,
        "attention_mask_style": "clipped_causal",
        "attention_memory_size": 2 * config.memory,
        "diff_mlp_embedding": False,
        "hidsize": config.hidden_size,
        "img_shape": [config.frame_size, config.frame_size, 3],
        "impala_chans": [16, 32, 32],
        "impala_kwargs": {"post_pool_groups": 1},
        "impala_width": config.impala_width,
        "init_norm_kwargs": {"batch_norm": False, "group_norm_groups": 1},
        "n_recurrence_layers": config.blocks,
        "only_img_input": True,
        "pointwise_ratio": config.mlp_ratio,
        "pointwise_use_activation": False,
        "recurrence_is_residual": True,
        "recurrence_type": "transformer",
        "timesteps": config.memory,
        "use_pointwise_layer": True,
        "use_pre_lstm_ln": False,
    }
