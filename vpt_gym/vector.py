"""VPT latents for Gymnasium's vector environments."""

from vpt_gym.wrappers.vector import VPTLatentObservation

__all__ = ["VPTLatentObservation"]
