"""The VPT network: torch only; weights here, memory with whoever steps."""

from vpt_gym.nn.accelerate import accelerate
from vpt_gym.nn.net import VPTNet, layer_names
from vpt_gym.nn.state import Memory

__all__ = ["Memory", "VPTNet", "accelerate", "layer_names"]
