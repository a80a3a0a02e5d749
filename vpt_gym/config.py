"""The shape of a VPT network: one frozen record and the presets that OpenAI published, and a small one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Final

from vpt_gym.checks import check_count
from vpt_gym.errors import OptionError

__all__ = ["FRAME_SIZE", "PRECISIONS", "PRESETS", "RELATION_RANK", "VPTConfig"]

FRAME_SIZE: Final = 128
"""Height and width, in pixels, of the frames that OpenAI's networks read (paper, appendix D.1)."""

RELATION_RANK: Final = 10
"""Functions of distance from which each head mixes its relative-position bias (`nbasis` in VPT's xf.py)."""

PRECISIONS: Final = ("auto", "float32", "tf32", "bfloat16", "float16")
"""What a network can be asked to compute in; `vpt_gym.precision` says what each of them is."""


@dataclass(frozen=True)
class VPTConfig:
    """Sizes of one VPT network; everything else about the architecture is fixed.

    Attributes:
        hidden_size: width of the transformer and of every latent (VPT's `hidsize`).
        heads: attention heads in each block; must divide `hidden_size`.
        impala_width: the convolutional stacks have 16, 32 and 32 times this many channels.
        blocks: transformer blocks.
        memory: frames that a query sees, its own included (VPT's `attention_memory_size - timesteps`).
        dense_size: width of the bottleneck between the convolutions and the transformer.
        mlp_ratio: hidden width of a block's MLP over `hidden_size` (VPT's `pointwise_ratio`).
        frame_size: side in pixels of the square frames that the network reads (VPT's `img_shape`).

    Raises:
        OptionError: a size is not a positive whole number, `heads` does not divide `hidden_size`, or `frame_size` is not a
            multiple of 8.

    Source: `policy_kwargs` of OpenAI's `.model` files and of MineStudio's `config.json`; VPT paper (arXiv 2206.11795),
    appendix D.1.
    """

    hidden_size: int
    heads: int
    impala_width: int
    blocks: int = 4
    memory: int = 128
    dense_size: int = 256
    mlp_ratio: int = 4
    frame_size: int = FRAME_SIZE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(f"VPTConfig.{name}", value)
        if self.hidden_size % self.heads:
            raise OptionError(
                f"VPTConfig.heads must divide hidden_size, but {self.hidden_size} is not a multiple of {self.heads}."
            )
        if self.frame_size % 8:
            raise OptionError(f"VPTConfig.frame_size must be a multiple of 8, not {self.frame_size}.")

    def to_dict(self) -> dict[str, int]:
        """The sizes by their names; peft asks a network's config for them, before 0.18 in no other way."""
        return asdict(self)

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three convolutional stacks."""
        return 16 * self.impala_width, 32 * self.impala_width, 32 * self.impala_width

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.heads

    @property
    def flat_size(self) -> int:
        """Length of the flattened output of the last stack, an eighth of the frame a side: channels x 16 x 16 at 128 pixels."""
        return self.channels[-1] * (self.frame_size // 8) ** 2


PRESETS: Final = MappingProxyType(
    {
        "1x": VPTConfig(hidden_size=1024, heads=8, impala_width=4),
        "2x": VPTConfig(hidden_size=2048, heads=16, impala_width=8),
        "3x": VPTConfig(hidden_size=3072, heads=24, impala_width=12),
        "tiny": VPTConfig(hidden_size=512, heads=4, impala_width=1),
        "mini": VPTConfig(hidden_size=256, heads=4, impala_width=1, frame_size=64),
    }
)
"""OpenAI's three sizes; `tiny`, the same architecture at a size that two CPU cores run in real time; and `mini`, of 4.0 million
parameters and a quarter of the pixels, at a size that they train: eight megabytes in bfloat16."""
