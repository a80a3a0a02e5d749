"""VPT's name, our name and the shape of every tensor of the network, as one explicit table."""

from __future__ import annotations

from typing import NamedTuple

from vpt_gym.config import RELATION_RANK, VPTConfig

__all__ = ["NETWORK_PREFIX", "TensorSpec", "table"]

NETWORK_PREFIX = "net."
"""What the names of the network's tensors begin with in every VPT checkpoint; the heads' begin otherwise."""

_COLOURS = 3
_BLOCKS_PER_STACK = 2
_KERNEL = (3, 3)


class TensorSpec(NamedTuple):
    """One tensor of the network.

    Attributes:
        vpt_name: key in OpenAI's and MineStudio's checkpoints, such as `net.final_ln.weight`.
        parameter: key in the `state_dict` of vpt_gym's network.
        shape: shape, the same in both.
    """

    vpt_name: str
    parameter: str
    shape: tuple[int, ...]


def table(config: VPTConfig) -> tuple[TensorSpec, ...]:
    """List every tensor of the network of this size: 125 of them with four transformer blocks.

    Source: `state_dict` of OpenAI's MinecraftPolicy (Video-Pre-Training, lib/policy.py) without its heads.
    """
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    rows += _cnn(config)
    for block in range(config.blocks):
        rows += _transformer_block(config, block)
    hidden = config.hidden_size
    rows += _norm("lastlayer.norm", "last_norm", hidden)
    rows.append(("lastlayer.layer.weight", "last.weight", (hidden, hidden)))
    rows += _norm("final_ln", "final_norm", hidden)
    return tuple(TensorSpec(NETWORK_PREFIX + vpt_name, parameter, shape) for vpt_name, parameter, shape in rows)


def _norm(vpt_name: str, parameter: str, size: int) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f"{vpt_name}.{part}", f"{parameter}.{part}", (size,)) for part in ("weight", "bias")]


def _cnn(config: VPTConfig) -> list[tuple[str, str, tuple[int, ...]]]:
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    incoming = _COLOURS
    for index, channels in enumerate(config.channels):
        theirs, ours = f"img_process.cnn.stacks.{index}", f"cnn.stacks.{index}"
        # The very first convolution reads pixels: it has no norm before it and, for that reason alone, a bias.
        if index > 0:
            rows += _norm(f"{theirs}.firstconv.norm", f"{ours}.first_norm", incoming)
        rows.append((f"{theirs}.firstconv.layer.weight", f"{ours}.first.weight", (channels, incoming, *_KERNEL)))
        if index == 0:
            rows.append((f"{theirs}.firstconv.layer.bias", f"{ours}.first.bias", (channels,)))
        rows += _norm(f"{theirs}.n", f"{ours}.pool_norm", channels)
        for block in range(_BLOCKS_PER_STACK):
            for conv in range(2):
                vpt_conv, our_block = f"{theirs}.blocks.{block}.conv{conv}", f"{ours}.blocks.{block}"
                rows += _norm(f"{vpt_conv}.norm", f"{our_block}.norm{conv}", channels)
                weight = f"{our_block}.conv{conv}.weight"
                rows.append((f"{vpt_conv}.layer.weight", weight, (channels, channels, *_KERNEL)))
        incoming = channels
    flat, dense, hidden = config.flat_size, config.dense_size, config.hidden_size
    rows += _norm("img_process.cnn.dense.norm", "cnn.dense_norm", flat)
    rows.append(("img_process.cnn.dense.layer.weight", "cnn.dense.weight", (dense, flat)))
    rows += _norm("img_process.linear.norm", "cnn.linear_norm", dense)
    rows.append(("img_process.linear.layer.weight", "cnn.linear.weight", (hidden, dense)))
    return rows


def _transformer_block(config: VPTConfig, index: int) -> list[tuple[str, str, tuple[int, ...]]]:
    hidden, wide = config.hidden_size, config.hidden_size * config.mlp_ratio
    relations = RELATION_RANK * config.heads
    theirs, ours = f"recurrent_layer.blocks.{index}", f"blocks.{index}"
    vpt_attention, attention = f"{theirs}.r.orc_block", f"{ours}.attention"
    return [
        *_norm(f"{theirs}.pre_r_ln", f"{ours}.input_norm", hidden),
        (f"{vpt_attention}.q_layer.weight", f"{attention}.query.weight", (hidden, hidden)),
        (f"{vpt_attention}.q_layer.bias", f"{attention}.query.bias", (hidden,)),
        (f"{vpt_attention}.k_layer.weight", f"{attention}.key.weight", (hidden, hidden)),
        (f"{vpt_attention}.v_layer.weight", f"{attention}.value.weight", (hidden, hidden)),
        (f"{vpt_attention}.proj_layer.weight", f"{attention}.output.weight", (hidden, hidden)),
        (f"{vpt_attention}.proj_layer.bias", f"{attention}.output.bias", (hidden,)),
        (f"{vpt_attention}.r_layer.weight", f"{attention}.relation.weight", (relations, hidden)),
        (f"{vpt_attention}.r_layer.bias", f"{attention}.relation.bias", (relations,)),
        (f"{vpt_attention}.b_nd", f"{attention}.relation_basis", (RELATION_RANK, config.memory)),
        *_norm(f"{theirs}.mlp0.norm", f"{ours}.mlp_norm", hidden),
        (f"{theirs}.mlp0.layer.weight", f"{ours}.mlp_in.weight", (wide, hidden)),
        (f"{theirs}.mlp1.layer.weight", f"{ours}.mlp_out.weight", (hidden, wide)),
        (f"{theirs}.mlp1.layer.bias", f"{ours}.mlp_out.bias", (hidden,)),
    ]
