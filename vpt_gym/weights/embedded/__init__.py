"""Weights that are in the package itself: one folder each, as `save_checkpoint` writes it, with a model card beside."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vpt_gym.errors import WeightsError

__all__ = ["EMBEDDED", "FOLDER", "embedded_folder"]

FOLDER: Final = Path(__file__).parent
EMBEDDED: Final = {"doom:mini": "doom-mini"}
"""Source to folder."""


def embedded_folder(source: str) -> Path:
    """Where the weights of a source such as `doom:mini` lie.

    Raises:
        WeightsError: there is no such source, or this copy of the package came without its weights.
    """
    if source not in EMBEDDED:
        raise WeightsError(f"{source!r} is not in the package: choose from {', '.join(EMBEDDED)}.")
    folder = FOLDER / EMBEDDED[source]
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{source!r}: this copy of vpt_gym came without the weights ({folder} holds none): install it from a wheel, or "
            "make them with benchmarks/doom_mini.py."
        )
    return folder
