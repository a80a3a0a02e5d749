"""Where a checkpoint comes from, what it must hold, and what may not be trusted."""

from vpt_gym.weights.checkpoint import Checkpoint, LoadReport, load_checkpoint, take_checkpoint
from vpt_gym.weights.heads import VPTHeads, load_heads
from vpt_gym.weights.names import TensorSpec, table
from vpt_gym.weights.saving import policy_options, save_checkpoint
from vpt_gym.weights.source import ResolvedSource, Untrained, resolve

__all__ = [
    "Checkpoint",
    "LoadReport",
    "ResolvedSource",
    "TensorSpec",
    "Untrained",
    "VPTHeads",
    "load_checkpoint",
    "load_heads",
    "policy_options",
    "resolve",
    "save_checkpoint",
    "table",
    "take_checkpoint",
]
