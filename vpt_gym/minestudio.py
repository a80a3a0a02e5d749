"""MineStudio's policies as encoders. Importing this imports nothing of MineStudio."""

from vpt_gym.encoders.minestudio import Condition, PolicyEncoder, PolicyStream, encoder_from_policy, import_minestudio

__all__ = ["Condition", "PolicyEncoder", "PolicyStream", "encoder_from_policy", "import_minestudio"]
