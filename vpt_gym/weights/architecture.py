"""The size of the network, read from its tensors, and whether a config says the same."""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vpt_gym.config import PRESETS, RELATION_RANK, VPTConfig
from vpt_gym.errors import VPTGymError, WeightsError
from vpt_gym.weights.names import NETWORK_PREFIX, TensorSpec, table

__all__ = ["check_declared", "config_from_shapes"]

Shape = tuple[int, ...]

_EXAMPLES = 5
_LONGEST = 300
_LARGEST_SIZE = 2**16
_MOST_BLOCKS = 512
"""No network is larger; a table as long as a made-up number of blocks asks for would not fit in memory."""
_BLOCK = re.compile(r"net\.recurrent_layer\.blocks\.([0-9]{1,9})\.")
_IDM = "net.conv3d_layer."
"""Of OpenAI's `InverseActionNet` alone: it convolves over time before it looks at single frames."""
_STRIPPED = re.compile(r"(img_process|recurrent_layer|lastlayer|final_ln)\.")
_SIZES: Mapping[str, str] = {
    "hidsize": "hidden_size",
    "attention_heads": "heads",
    "impala_width": "impala_width",
    "n_recurrence_layers": "blocks",
    "pointwise_ratio": "mlp_ratio",
    "attention_memory_size - timesteps": "memory",
    "img_shape": "frame_size",
}
"""Options of MinecraftPolicy that the tensors show, and the fields of VPTConfig that they set."""
_FIXED: Mapping[str, object] = {
    "attention_mask_style": "clipped_causal",
    "diff_mlp_embedding": False,
    "first_conv_norm": False,
    "img_statistics": None,
    "impala_chans": [16, 32, 32],
    "impala_kwargs.post_pool_groups": 1,
    "init_norm_kwargs.batch_norm": False,
    "init_norm_kwargs.group_norm_groups": 1,
    "pointwise_use_activation": False,
    "recurrence_is_residual": True,
    "recurrence_type": "transformer",
    "scale_input_img": True,
    "use_pointwise_layer": True,
    "use_pre_lstm_ln": False,
}
"""Options of MinecraftPolicy that make another network of the same or other tensors, and the value all of VPT has."""


def config_from_shapes(path: Path, shapes: Mapping[str, Shape]) -> VPTConfig:
    """Read the architecture from names and shapes, and check that every tensor is there and fits it.

    Args:
        path: the checkpoint, for messages.
        shapes: shape of every tensor in it, by VPT's name; those outside the network are not looked at.

    Returns:
        The sizes of the network, none of which is taken from anywhere but the tensors.

    Raises:
        WeightsError: the `net.` prefix is stripped, or tensors are missing, unexpected or of a wrong shape.
    """
    inside = {name: shape for name, shape in shapes.items() if name.startswith(NETWORK_PREFIX)}
    if not inside:
        raise WeightsError(_no_network(path, shapes))
    idm = [name for name in inside if name.startswith(_IDM)]
    if idm:
        raise WeightsError(
            f"{path} is OpenAI's inverse dynamics model (IDM): it has {_some(idm)}. It labels recordings, frame by frame, with "
            "what the player did, and no agent can play by it, since it looks ahead: name a foundation-model, bc or rl file."
        )
    _check_names(path, shapes, inside)
    config = _sizes(path, inside)
    wrong = _misfits(table(config), inside)
    if wrong:
        raise WeightsError(
            f"{path}: {len(wrong)} of {len(inside)} tensors have a wrong shape: {_some(wrong)}. The file "
            "is damaged or holds another network: get it again from its source."
        )
    return config


def _no_network(path: Path, names: Collection[str]) -> str:
    stripped = [name for name in names if _STRIPPED.match(name)]
    if stripped:
        return (
            f"{path}: {len(stripped)} tensors have lost the prefix 'net.' of their names: {_some(stripped)}. Save the "
            "whole policy's state_dict, not that of its net alone."
        )
    prefixed = [name for name in names if f".{NETWORK_PREFIX}" in name]
    if prefixed:
        prefix = prefixed[0].partition(NETWORK_PREFIX)[0]
        return (
            f"{path}: {len(prefixed)} tensors have the prefix {prefix!r} before 'net.': {_some(prefixed)}. Save the "
            "policy's own state_dict, not that of what is around it."
        )
    found = f"{len(names)} tensors with other names: {_some(sorted(names))}" if names else "no tensors at all"
    return (
        f"{path} holds no VPT network: none of its names begins with 'net.', and it has {found}. Name a VPT checkpoint."
    )


def _check_names(path: Path, names: Collection[str], inside: Collection[str]) -> None:
    indices = {int(match[1]) for name in inside if (match := _BLOCK.match(name))}
    # No file has more blocks than tensors, and no network more than hundreds: a made-up index must not become a table that
    # long.
    blocks = 1 + max((index for index in indices if index < min(len(inside), _MOST_BLOCKS)), default=0)
    wanted = [spec.vpt_name for spec in table(replace(PRESETS["1x"], blocks=blocks))]
    missing = [name for name in wanted if name not in inside]
    if missing:
        stripped = sum(name.removeprefix(NETWORK_PREFIX) in names for name in missing)
        hint = f" ({stripped} of them are there without the prefix 'net.')" if stripped else ""
        raise WeightsError(
            f"{path}: {len(missing)} of {len(wanted)} tensors of the network are missing{hint}: "
            f"{_some(missing)}. The file is incomplete: get it again from its source."
        )
    unexpected = sorted(set(inside) - set(wanted))
    if unexpected:
        raise WeightsError(
            f"{path}: {len(unexpected)} tensors inside 'net.' belong to no VPT network: "
            f"{_some(unexpected)}. This is another architecture: name a VPT checkpoint."
        )


def _sizes(path: Path, shapes: Mapping[str, Shape]) -> VPTConfig:
    def size(*places: tuple[str, int]) -> int:
        # Several tensors show each size. The commonest answer wins, so that one damaged tensor is reported as that one
        # and not as all the others.
        seen = [shape[axis] for name, axis in places if len(shape := shapes[NETWORK_PREFIX + name]) > axis]
        return Counter(seen).most_common(1)[0][0] if seen else 0

    blocks = len({match[1] for name in shapes if (match := _BLOCK.match(name))})
    in_blocks = [f"recurrent_layer.blocks.{index}" for index in range(blocks)]
    first = "img_process.cnn.stacks.0"
    channels = size(
        (f"{first}.firstconv.layer.weight", 0), (f"{first}.firstconv.layer.bias", 0), (f"{first}.n.weight", 0)
    )
    hidden = size(
        ("final_ln.weight", 0),
        ("final_ln.bias", 0),
        ("lastlayer.norm.weight", 0),
        ("img_process.linear.layer.weight", 0),
    )
    relations = size(
        *((f"{block}.r.orc_block.r_layer.{part}", 0) for block in in_blocks for part in ("weight", "bias"))
    )
    wide = size(*((f"{block}.mlp0.layer.weight", 0) for block in in_blocks))
    dense = size(
        ("img_process.linear.norm.weight", 0),
        ("img_process.linear.norm.bias", 0),
        ("img_process.cnn.dense.layer.weight", 0),
    )
    memory = size(*((f"{block}.r.orc_block.b_nd", 1) for block in in_blocks))
    dense_in = "img_process.cnn.dense"
    flat = size((f"{dense_in}.norm.weight", 0), (f"{dense_in}.norm.bias", 0), (f"{dense_in}.layer.weight", 1))
    multiples = (
        ("numbers in final_ln", hidden, 1),
        ("firstconv channels", channels, 16),
        ("r_layer rows", relations, RELATION_RANK),
        ("mlp0 rows", wide, max(hidden, 1)),
    )
    for what, number, unit in multiples:
        if number < 1 or number % unit:
            raise WeightsError(
                f"{path} describes no VPT network: {number} {what} are not a multiple of {unit}. Name a VPT checkpoint."
            )
    # The last stack has twice the first one's channels, on an eighth of the frame a side.
    side = math.isqrt(flat // (2 * channels))
    if not side or 2 * channels * side**2 != flat:
        raise WeightsError(
            f"{path} describes no VPT network: its dense layer reads {flat} numbers, which is no square of {2 * channels} "
            "channels, so its frames have no size. Name a VPT checkpoint."
        )
    try:
        return VPTConfig(
            hidden_size=hidden,
            heads=relations // RELATION_RANK,
            impala_width=channels // 16,
            blocks=blocks,
            memory=memory,
            dense_size=dense,
            mlp_ratio=wide // hidden,
            frame_size=8 * side,
        )
    except VPTGymError as error:
        raise WeightsError(f"{path} describes no VPT network: {error} Name a VPT checkpoint.") from error


def check_declared(
    declared: Mapping[str, object], config: VPTConfig, shapes: Mapping[str, Shape], *, declared_in: Path, path: Path
) -> None:
    """Refuse a config that describes another network than the tensors do; keys we do not know are ignored.

    Args:
        declared: keyword arguments of MinecraftPolicy, from `config.json` or `.model`.
        config: the sizes read from the tensors.
        shapes: shape of every tensor, by VPT's name.
        declared_in: where `declared` comes from, for messages.
        path: where the tensors come from, for messages.

    Raises:
        WeightsError: a field disagrees. The message names each such field with both values, and when sizes disagree
            also how many tensors do not fit, with five examples.
    """
    flat = _flattened(declared)
    span, steps = flat.get("attention_memory_size"), flat.get("timesteps")
    if isinstance(span, int) and isinstance(steps, int):
        flat["attention_memory_size - timesteps"] = span - steps
    shape = flat.get("img_shape")
    if isinstance(shape, list) and len(shape) == 3 and isinstance(shape[0], int) and shape[1:] == [shape[0], 3]:
        flat["img_shape"] = shape[0]
    sizes = {field: flat[key] for key, field in _SIZES.items() if key in flat and flat[key] != getattr(config, field)}
    complaints = [
        f"{key} is {reprlib.repr(sizes[field])} in the config, {getattr(config, field)!r} by the tensors"
        for key, field in _SIZES.items()
        if field in sizes
    ]
    complaints += [
        f"{key} is {reprlib.repr(flat[key])} in the config, {value!r} in every VPT network"
        for key, value in _FIXED.items()
        if key in flat and flat[key] != value
    ]
    if not complaints:
        return
    wrong = _misfits(_declared_table(sizes, config), shapes)
    count = f" {len(wrong)} tensors do not fit the config: {_some(wrong)}." if wrong else ""
    raise WeightsError(
        f"{declared_in} does not describe {path}: {'; '.join(complaints)}.{count} Bring together the config "
        "and the weights of one network, or load the weights without a config."
    )


def _flattened(declared: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in declared.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": content for inner, content in value.items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _declared_table(sizes: Mapping[str, object], config: VPTConfig) -> tuple[TensorSpec, ...]:
    """The tensors that the declared sizes would have; none where they describe no network at all."""
    changes = {field: value for field, value in sizes.items() if isinstance(value, int) and value <= _LARGEST_SIZE}
    if changes.get("blocks", 0) > _MOST_BLOCKS:
        return ()
    try:
        return table(replace(config, **changes))
    except VPTGymError:
        return ()


def _misfits(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape]) -> list[str]:
    """Tensors that are missing or have another shape, each as a phrase that says both."""
    wrong: list[str] = []
    for spec in specs:
        shape = shapes.get(spec.vpt_name)
        if shape is None:
            wrong.append(f"{spec.vpt_name} (missing)")
        elif shape != spec.shape:
            wrong.append(f"{spec.vpt_name} (expected {spec.shape}, is {shape})")
    return wrong


def _some(items: Sequence[str]) -> str:
    rest = f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else ""
    return ", ".join(item[:_LONGEST] for item in items[:_EXAMPLES]) + rest
