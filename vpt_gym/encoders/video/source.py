"""What `video:<folder or hub id>[?...]` asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from vpt_gym.errors import OptionError

__all__ = ["Asked", "read_source"]

_FORM: Final = "video:<folder or hub id>[?layer=1&all_layers=false&timestep=20&frames=16&pool=mean]"
_POOL: Final = re.compile(r"mean|grid:([1-9][0-9]{0,3})")
_LARGEST_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class Asked:
    """What a source string asks for beside the weights.

    Attributes:
        place: a folder, or the name of a hub repository.
        layer: the up block of the UNet whose output is looked at, from 0.
        all_layers: the blocks before it too, side by side.
        timestep: steps of the sampler's schedule, at the first of which the UNet runs.
        frames: how many the model is to imagine.
        imagined: of how many of them, from the first, the latent is made; None for all.
        cells: of the grid along each side, over which the latent is pooled: 1 for `mean`, N for `grid:N`.
        size: side in pixels of the frames that it reads; None for the default.
        seed: of the noise.
    """

    place: str
    layer: int = 1
    all_layers: bool = False
    timestep: int = 20
    frames: int = 16
    imagined: int | None = None
    cells: int = 1
    size: int | None = None
    seed: int = 0

    @property
    def kept(self) -> int:
        """Imagined frames in the latent."""
        return self.frames if self.imagined is None else self.imagined


def read_source(source: str) -> Asked:
    """Reads a source string.

    Raises:
        OptionError: it is none, or an option in it has no such value.
    """
    place, _, query = source.partition(":")[2].partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    texts = dict(pairs)
    names = ("layer", "all_layers", "timestep", "frames", "imagined", "pool", "size", "seed")
    if not place or len(texts) != len(pairs) or not set(texts) <= set(names):
        raise OptionError(f"{source!r} is not {_FORM}; the options are {', '.join(names)}, each once.")
    values: dict[str, Any] = {}
    for name, least, most in (
        ("layer", 0, 99),
        ("timestep", 1, 1000),
        ("frames", 1, 999),
        ("imagined", 1, 999),
        ("size", 8, 4096),
        ("seed", 0, _LARGEST_SEED),
    ):
        if name in texts:
            values[name] = _whole(source, name, texts[name], least, most)
    if "all_layers" in texts:
        if texts["all_layers"] not in {"true", "false"}:
            raise OptionError(f"{source!r}: all_layers must be true or false, not {texts['all_layers']!r}.")
        values["all_layers"] = texts["all_layers"] == "true"
    if "pool" in texts:
        pool = _POOL.fullmatch(texts["pool"])
        if pool is None:
            raise OptionError(f"{source!r}: pool must be mean, or grid:N for N x N cells, not {texts['pool']!r}.")
        values["cells"] = int(pool[1] or 1)
    asked = Asked(place, **values)
    if asked.kept > asked.frames:
        raise OptionError(
            f"{source!r}: imagined={asked.imagined}, but only {asked.frames} frames are imagined; raise frames, or lower it."
        )
    return asked


def _whole(source: str, name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise OptionError(f"{source!r}: {name} must be a whole number from {least} to {most}, not {text[:40]!r}.")
    return int(text)
