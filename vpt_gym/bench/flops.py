"""How much arithmetic one frame costs: the network's nominal FLOPs, counted from its sizes."""

from __future__ import annotations

from vpt_gym.config import FRAME_SIZE, RELATION_RANK, VPTConfig

__all__ = ["flops_by_stage", "flops_per_frame"]

TAPS = 9
"""Every convolution has a 3x3 kernel."""


def flops_by_stage(config: VPTConfig) -> dict[str, int]:
    """Nominal floating-point operations of one frame stepped with a full memory, by stage.

    Nominal means twice the multiply-adds of direct convolutions and matrix products. Norms, pools, activations and the
    softmax are not counted, nor is what an implementation saves (Winograd) or wastes (padding).

    Args:
        config: sizes of the network.

    Returns:
        Stage to FLOPs, in the order of the computation: `stack0 first conv`, `stack0 blocks`, ..., `last`.

    Source: the architecture as in the VPT paper (arXiv 2206.11795), appendix D.1, and OpenAI's lib/impala_cnn.py, lib/xf.py.
    """
    stages: dict[str, int] = {}
    incoming, pixels = 3, FRAME_SIZE**2
    for i, channels in enumerate(config.channels):
        # A stack's first convolution runs before its pool; the four of its two residual blocks run behind it.
        stages[f"stack{i} first conv"] = 2 * TAPS * incoming * channels * pixels
        pixels //= 4
        stages[f"stack{i} blocks"] = 4 * 2 * TAPS * channels * channels * pixels
        incoming = channels
    size, blocks = config.hidden_size, config.blocks
    stages["dense"] = 2 * config.flat_size * config.dense_size
    stages["linear"] = 2 * config.dense_size * size
    stages["query, key, value, output"] = blocks * 4 * 2 * size * size
    stages["relation"] = blocks * 2 * RELATION_RANK * config.heads * (size + config.memory)
    stages["attention"] = blocks * 2 * 2 * config.memory * size
    stages["mlp"] = blocks * 2 * 2 * config.mlp_ratio * size * size
    stages["last"] = 2 * size * size
    return stages


def flops_per_frame(config: VPTConfig) -> int:
    """The sum of `flops_by_stage`: 15.06 GFLOP for VPT's 2x network."""
    return sum(flops_by_stage(config).values())
