"""VPT's own heads as a policy of Stable-Baselines3, PPO that stays close to them, and features extractors on latents."""

from vpt_gym.heads.diffusion import DiffusionPolicy
from vpt_gym.heads.klppo import KLPPO
from vpt_gym.heads.policy import PretrainedHeadPolicy
from vpt_gym.heads.resampler import LatentResampler
from vpt_gym.heads.scaling import ScaledLatents
from vpt_gym.heads.videoformer import VideoFormer
from vpt_gym.weights.heads import VPTHeads

__all__ = [
    "KLPPO",
    "DiffusionPolicy",
    "LatentResampler",
    "PretrainedHeadPolicy",
    "ScaledLatents",
    "VPTHeads",
    "VideoFormer",
]
