"""Everything that decides a pre-training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from vpt_gym.checks import is_between
from vpt_gym.running.options import COUNT, FRACTION, POSITIVE, Kind, Option, check_options, documented, one_of

__all__ = ["TRAINED", "PretrainingConfig"]

TRAINED: Final = ("all", "blocks", "last", "norms", "heads")
MIXED: Final = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names of what a step computes in; parameters stay float32."""
_LORA: Final = re.compile(r"lora:[1-9]\d*")

_WHAT: Final = Kind(
    f"one of {', '.join(TRAINED)} or lora:RANK, such as lora:8",
    "WHAT",
    lambda v: isinstance(v, str) and (v in TRAINED or _LORA.fullmatch(v) is not None),
)
_WEIGHTS: Final = Kind(
    "names of objectives with weights above 0, such as clone=1",
    "NAME=WEIGHT",
    lambda v: isinstance(v, Mapping) and bool(v) and all(is_between(w, 0) and w > 0 for w in v.values()),
    keep=dict,
)

_recordings = partial(Option, group="recordings")
_network = partial(Option, group="network")
_training = partial(Option, group="training")


@documented
@dataclass(frozen=True)
class PretrainingConfig:
    """A training of the network on recordings.

    Raises:
        OptionError: a value is of a wrong type or out of its range.
    """

    datasets: Annotated[tuple[str, ...], _recordings("folders of recordings with actions", flag="DATASET")]
    out: Annotated[
        Path, _network("folder of the result: new, or that of the same training, which then goes on", flag="--out")
    ]
    source: Annotated[
        str, _network("VPT weights to start from, or random:<preset>[?seed=]", flag="--from", metavar="SOURCE")
    ] = "random:mini"
    train: Annotated[
        str,
        _network("what is trained: all, blocks, last (block and layers behind it), norms, heads, or lora:RANK", _WHAT),
    ] = "all"
    objective: Annotated[
        dict[str, Any],
        _training(
            "what is trained for: clone (the recorded actions), inverse (the action between two frames), next (what comes), "
            "frame (a coarse picture of it), or the name of an array of the recordings, which is predicted; may be repeated",
            _WEIGHTS,
        ),
    ] = field(default_factory=lambda: {"clone": 1.0})
    steps: Annotated[int, _training("steps of the optimiser", COUNT)] = 10_000
    rows: Annotated[int, _training("recordings side by side in a batch", COUNT)] = 16
    length: Annotated[int, _training("frames of each row in a batch; gradients go as far back", COUNT)] = 16
    learning_rate: Annotated[float, _training("step size of AdamW after the warm-up", POSITIVE)] = 1e-3
    weight_decay: Annotated[float, _training("weight decay of AdamW, for matrices", FRACTION)] = 0.01
    warm_up: Annotated[int, _training("steps in which the learning rate rises from zero", COUNT)] = 200
    clip: Annotated[float, _training("norm that gradients are clipped to", POSITIVE)] = 1.0
    validation: Annotated[float, _recordings("share of the recordings that are only looked at", FRACTION)] = 0.05
    validate_every: Annotated[int, _training("steps between two validations, each with a checkpoint", COUNT)] = 500
    patience: Annotated[int, _training("validations without a better loss after which it ends", COUNT)] = 10
    seed: Annotated[int, _training("of the order of the recordings and of new heads")] = 0
    workers: Annotated[int, _recordings("0 or 1: read recordings in a process beside the training")] = 1
    precision: Annotated[
        str,
        _network(
            "what a step computes in, by Lightning's names; bf16-mixed is faster on GPUs and on CPUs that have bfloat16",
            one_of(*MIXED),
        ),
    ] = "32-true"
    wandb: Annotated[bool, _training("log to Weights & Biases too, under the folder's name")] = False
    device: Annotated[str, _network("auto is a CUDA GPU if there is one", one_of("auto", "cpu", "cuda"))] = "auto"
    devices: Annotated[
        int, _network("GPUs, or with --device cpu processes, side by side; each has --rows of its own", COUNT)
    ] = 1

    def __post_init__(self) -> None:
        check_options(self)
