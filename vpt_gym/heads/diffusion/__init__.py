"""Actions by diffusion: chunks of them, denoised from noise, for what latents show and goals say."""

from vpt_gym.heads.diffusion.policy import DiffusionPolicy

__all__ = ["DiffusionPolicy"]
