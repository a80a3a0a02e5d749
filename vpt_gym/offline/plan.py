"""What the commands on recordings can be told, as frozen records; free of torch, for the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

from vpt_gym.checks import is_between
from vpt_gym.running.options import COUNT, FRACTION, POSITIVE, Kind, Option, check_options, documented, one_of

__all__ = ["CloningConfig", "DiffusionConfig", "EncodingConfig", "ProbingConfig"]

NOT_NEGATIVE: Final = Kind("a number from 0 on", "X", lambda v: is_between(v, 0), float)


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


_learning = partial(Option, group="learning")


@documented
@dataclass(frozen=True)
class CloningConfig:
    """How a policy is cloned from demonstrations.

    Raises:
        OptionError: a value is out of range.
    """

    epochs: Annotated[int, _learning("most passes over the demonstrations", COUNT)] = 30
    batch_size: Annotated[int, _learning("frames in one gradient step", COUNT)] = 1024
    learning_rate: Annotated[float, _learning("step size of AdamW, when it is warm", POSITIVE)] = 1e-3
    weight_decay: Annotated[float, _learning("of AdamW", NOT_NEGATIVE)] = 0.01
    warm_up: Annotated[int, _learning("gradient steps in which the step size rises from 0, in a line", COUNT)] = 50
    validation: Annotated[float, _learning("share of the episodes that are held out", FRACTION)] = 0.1
    patience: Annotated[
        int, _learning("epochs without a better loss on what is held out, after which it ends", COUNT)
    ] = 5
    kl_coef: Annotated[float, _learning("weight of the divergence from a teacher", NOT_NEGATIVE)] = 0.0
    seed: Annotated[int, _learning("of the split and the order of frames")] = 0

    def __post_init__(self) -> None:
        check_options(self)


@documented
@dataclass(frozen=True)
class DiffusionConfig:
    """How a diffusion policy is trained on demonstrations.

    Raises:
        OptionError: a value is out of range.
    """

    steps: Annotated[int, _learning("gradient steps", COUNT)] = 10_000
    batch_size: Annotated[int, _learning("chunks in one gradient step", COUNT)] = 256
    learning_rate: Annotated[float, _learning("step size of AdamW, when it is warm", POSITIVE)] = 3e-4
    weight_decay: Annotated[float, _learning("of AdamW", NOT_NEGATIVE)] = 0.01
    warm_up: Annotated[int, _learning("gradient steps in which the step size rises from 0, in a line", COUNT)] = 100
    ema: Annotated[float, _learning("decay of the moving average of the weights, with which it plays", FRACTION)] = (
        0.999
    )
    validation: Annotated[float, _learning("share of the episodes that are held out", FRACTION)] = 0.1
    validate_every: Annotated[int, _learning("gradient steps between two looks at what is held out", COUNT)] = 500
    seed: Annotated[int, _learning("of the split, the order of chunks, and the noise")] = 0
    device: Annotated[str, _learning("where it trains", one_of("auto", "cpu", "cuda"))] = "auto"

    def __post_init__(self) -> None:
        check_options(self)


@documented
@dataclass(frozen=True)
class ProbingConfig:
    """How linear probes are fitted and scored.

    Raises:
        OptionError: a value is out of range.
    """

    validation: Annotated[
        float, Option("share of the episodes that are held out for the score", FRACTION, group="probing")
    ] = 0.25
    frames: Annotated[int, Option("most frames that are held in memory at once", COUNT, group="probing")] = 50_000
    seed: Annotated[int, Option("of the split", group="probing")] = 0

    def __post_init__(self) -> None:
        check_options(self)
