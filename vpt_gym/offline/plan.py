"""What the commands on recordings can be told, as frozen records; free of torch, for the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vpt_gym.running.options import COUNT, Option, check_options, documented, one_of

__all__ = ["EncodingConfig"]


@documented
@dataclass(frozen=True)
class EncodingConfig:
    """How recordings are encoded and stored.

    Raises:
        OptionError: a value is out of range.
    """

    rows: Annotated[int, Option("recordings that go through the network side by side", COUNT, group="work")] = 8
    window: Annotated[int, Option("frames of each of them in one call of the network", COUNT, group="work")] = 32
    dtype: Annotated[str, Option("what latents are stored in", one_of("float32", "float16"), group="output")] = (
        "float32"
    )
    compression: Annotated[
        str,
        Option(
            "of the file; none is larger, and several times as fast to read", one_of("gzip", "none"), group="output"
        ),
    ] = "gzip"

    def __post_init__(self) -> None:
        check_options(self)
