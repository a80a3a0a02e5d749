"""VPT latents for Stable-Baselines3."""

from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["VecVPTLatent", "make_latent_vec_env"]
