"""What stands against what in a matrix: sources of encoders, and what may stand behind them."""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["HELP", "training_of"]

HELP: Final = """\
sources as for vpt-gym train, by spaces or commas; behind one, @cnn, @block0 ... @block3 or @final is a layer of VPT's, of
which cnn has no memory"""

_LAYER: Final = re.compile(r"(.+)@(cnn|block\d+|final|all)")


def training_of(name: str) -> dict[str, Any]:
    """The options of a `TrainingConfig` that a name in a matrix stands for."""
    layered = _LAYER.fullmatch(name)
    if layered is None:
        return {"encoder": name}
    return {"encoder": layered[1], "encoder_options": {"layer": layered[2]}}
