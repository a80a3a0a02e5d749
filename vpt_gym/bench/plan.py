"""What a benchmark run measures, declared once: the options of `vpt-gym bench`. Free of torch, for the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final

from vpt_gym.checks import is_count, is_whole
from vpt_gym.config import PRECISIONS
from vpt_gym.errors import OptionError
from vpt_gym.running.options import COUNT, POSITIVE, Kind, Option, check_options, documented

__all__ = ["BATCHES", "RIVALS", "Plan"]

RIVALS: Final = ("minestudio", "minestudio-bf16")
"""What users might take instead of VPT here: MineStudio's own network, eager, in float32 and under autocast."""


def _list_of(words: str, metavar: str, fits: Any, read: Any) -> Kind:
    return Kind(
        words, metavar, lambda v: isinstance(v, tuple) and all(map(fits, v)),
        lambda text: tuple(dict.fromkeys(map(read, text.split(",")))),
    )  # fmt: skip


BATCHES: Final = _list_of("a list of whole numbers of 1 or more, such as 8 or 1,8,64", "N,N", is_count, COUNT.read)


def _names(known: tuple[str, ...]) -> Kind:
    return _list_of(f"a list of any of {', '.join(known)}", "NAME,NAME", known.__contains__, str)


STEPS: Final = Kind("0, or a whole number of 4 or more", "N", lambda v: is_whole(v) and (v == 0 or v >= 4), COUNT.read)

_what, _much = partial(Option, group="what"), partial(Option, group="how much")


@documented
@dataclass(frozen=True)
class Plan:
    """What a run measures, and for how long.

    Raises:
        OptionError: a value is out of range, or the precision is given twice.
    """

    encoder: Annotated[
        str, _what("any encoder, as for vpt-gym train; time does not depend on its weights", metavar="SOURCE")
    ] = "random:2x"
    encoder_options: Annotated[
        dict[str, Any],
        _what(
            "an option of that kind of encoder, as for load_encoder",
            flag="--encoder-arg",
            entries={"device": Option("where the encoder runs: auto, cpu, cuda, cuda:1", metavar="DEVICE")},
        ),
    ] = field(default_factory=dict)
    batches: Annotated[tuple[int, ...], _what("environments stepped together", BATCHES, flag="--batch")] = (
        1,
        8,
        64,
        256,
    )
    precisions: Annotated[
        tuple[str, ...] | None,
        _what(
            f"any of {', '.join(PRECISIONS)} (default: float32, what auto means on this device, and bfloat16; of an encoder "
            "that is no VPT, its own choice)",
            _names(PRECISIONS),
            flag="--precision",
            metavar="P,P",
        ),
    ] = None
    rivals: Annotated[
        tuple[str, ...],
        _what(
            "minestudio: MineStudio's own network of VPT's size, eager float32; minestudio-bf16: under autocast",
            _names(RIVALS),
            flag="--against",
            metavar="R,R",
        ),
    ] = ()
    threads: Annotated[int | None, _much("threads of torch (default: torch's own choice)", COUNT)] = None
    seconds: Annotated[
        float, _much("measured time of each candidate at each batch size, three steps at least", POSITIVE)
    ] = 5.0
    accuracy_steps: Annotated[int, _much("steps of the comparison with float32; 0 leaves it out", STEPS)] = 1000
    videos: Annotated[
        tuple[str, ...],
        _much(
            "what to measure on (default: the Minecraft recordings in MineStudio's package; without it, drawn pictures)",
            flag="--video",
            metavar="FILE",
        ),
    ] = ()

    def __post_init__(self) -> None:
        check_options(self)
        if self.precisions is not None and "precision" in self.encoder_options:
            raise OptionError("precisions and encoder_options['precision'] are the same option; give one of them.")
