"""MineStudio's policies as encoders. Importing this imports nothing of MineStudio."""

from vpt_gym.encoders.minestudio.conditions import Condition
from vpt_gym.encoders.minestudio.encoder import PolicyEncoder, encoder_from_policy
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.encoders.minestudio.stream import PolicyStream

__all__ = ["Condition", "PolicyEncoder", "PolicyStream", "encoder_from_policy", "import_minestudio"]
