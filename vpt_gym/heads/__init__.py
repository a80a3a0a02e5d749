"""VPT's own heads as a policy of Stable-Baselines3, and PPO that stays close to them."""

from vpt_gym.heads.klppo import KLPPO
from vpt_gym.heads.policy import PretrainedHeadPolicy
from vpt_gym.weights.heads import VPTHeads

__all__ = ["KLPPO", "PretrainedHeadPolicy", "VPTHeads"]
