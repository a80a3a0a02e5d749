"""VPT latents for Stable-Baselines3."""

from vpt_gym.wrappers.sb3 import VecVPTLatent, make_latent_vec_env

__all__ = ["VecVPTLatent", "make_latent_vec_env"]
