"""What is compared: the matrix of environments, encoders and seeds, and the training that each of its cells is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from vpt_gym.compare.contestants import policy_of, training_of
from vpt_gym.errors import OptionError
from vpt_gym.running.options import COUNT, Declared, Option, check_options, documented, options_of
from vpt_gym.training.config import FleetConfig, TrainingConfig

__all__ = ["SHARED", "Cell", "ComparisonConfig"]

_OWN: Final = ("env_id", "encoder", "seed", "video", "pixels")
SHARED: Final[tuple[Declared, ...]] = tuple(o for o in options_of(TrainingConfig) if o.name not in _OWN)
"""The options of a training that every cell has alike."""

_matrix = partial(Option, group="matrix")


@dataclass(frozen=True)
class Cell:
    """One training of the matrix, or one policy in it that is played alone.

    Attributes:
        env: the environment as it was named, such as `VizdoomBasic-v1?frame_skip=4`.
        encoder: what stands against others, as it was named, such as `random:tiny@cnn`.
        seed: of the run.
        training: the run, complete.
        folder: the run folder, inside the matrix's.
    """

    env: str
    encoder: str
    seed: int
    training: TrainingConfig = field(compare=False)
    folder: Path = field(compare=False)

    @property
    def words(self) -> str:
        """The cell in a phrase."""
        return f"{self.env}, {self.encoder}, seed {self.seed}"

    @property
    def policy(self) -> Path | None:
        """The policy that is played; None for a training."""
        return policy_of(self.encoder)

    @property
    def command(self) -> list[str]:
        """The arguments of `vpt-gym` that train this cell anew: `train ...`, but for `--run`; of no use for a policy."""
        blank = TrainingConfig(self.training.env_id, self.training.encoder)
        words = ["train", self.training.env_id, "--encoder", self.training.encoder]
        for declared in options_of(TrainingConfig):
            name, value = declared.name, getattr(self.training, declared.name)
            if name in ("env_id", "encoder") or value == getattr(blank, name):
                continue
            flag = declared.option.flag or f"--{name.replace('_', '-')}"
            if isinstance(value, dict):
                words += [word for key, entry in value.items() for word in (flag, f"{key}={json.dumps(entry)}")]
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif isinstance(value, tuple) and declared.option.kind is None:
                words += [word for entry in value for word in (flag, entry)]
            elif isinstance(value, tuple):
                words += [flag, ",".join(map(str, value)) or "none"]
            else:
                words += [flag, str(value)]
        return words

    @property
    def log(self) -> Path:
        """What the cell's process printed, beside its run folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


@documented
@dataclass(frozen=True)
class ComparisonConfig:
    """A matrix of trainings: each environment with each encoder, over seeds.

    Raises:
        OptionError: a value is out of range, a name comes twice, or a training refuses its options.
        WeightsError: a policy's file cannot be had.
    """

    envs: Annotated[
        tuple[str, ...],
        Option(
            "ids of environments, as for vpt-gym train; what follows a ? are arguments of one alone: "
            "VizdoomBasic-v1?frame_skip=4",
            flag="ENV",
        ),
    ]
    encoders: Annotated[tuple[str, ...], _matrix("what is compared", flag="")]
    out: Annotated[Path, _matrix("the folder of the matrix: new, or one to go on with")]
    seeds: Annotated[int, _matrix("trainings of each pair, with seeds from 0 on", COUNT)] = 5
    jobs: Annotated[int, _matrix("trainings at a time, which share the processor's cores", COUNT)] = 1
    diagnose: Annotated[
        bool, _matrix("after the trainings, probe what each encoder's latents tell of the return to come")
    ] = True
    training: Annotated[dict[str, Any], _matrix("options of TrainingConfig that every run has alike", flag="")] = field(
        default_factory=dict
    )
    fleet: FleetConfig = field(default_factory=FleetConfig)
    """Where the environments of every run are; it may change while a matrix grows."""

    def __post_init__(self) -> None:
        check_options(self)
        known = {declared.name for declared in SHARED}
        for name in self.training:
            if name not in known:
                raise OptionError(f"training has no {name!r}; what runs share is {', '.join(sorted(known))}.")
        for what, names in (("environments", self.envs), ("encoders", self.encoders)):
            if not names:
                raise OptionError(f"The matrix has no {what}; name one at least.")
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise OptionError(f"{twice[0]!r} stands twice among the {what}; name each once.")
            folders = Counter(map(slug, names))
            alike = [name for name in names if folders[slug(name)] > 1]
            if alike:
                raise OptionError(f"{' and '.join(map(repr, alike))} would share a folder; rename one.")
        self.cells()

    @property
    def words(self) -> str:
        """The matrix in a phrase."""
        counts = {"environment": len(self.envs), "encoder": len(self.encoders), "seed": self.seeds}
        return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counts.items())

    def cells(self) -> list[Cell]:
        """Every cell, the first seed of all pairs first, so that what there is at any time compares fairly."""
        return [
            self.cell(env, encoder, seed)
            for seed in range(self.seeds)
            for env in self.envs
            for encoder in self.encoders
        ]

    def cell(self, env: str, encoder: str, seed: int) -> Cell:
        """One cell.

        Raises:
            OptionError: its training refuses its options.
        """
        shared = dict(self.training)
        env_id, env_kwargs = environment_of(env)
        shared["env_kwargs"] = {**shared.get("env_kwargs", {}), **env_kwargs}
        changes = training_of(encoder, shared.pop("encoder_options", {}))
        training = TrainingConfig(env_id=env_id, seed=seed, video="none", **{**shared, **changes})
        return Cell(env, encoder, seed, training, self.out / "cells" / slug(env) / slug(encoder) / f"seed-{seed}")

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, without the folder, which may be moved."""
        values = json.loads(json.dumps({k: v for k, v in asdict(self).items() if k != "out"}))
        return dict(values)


def environment_of(name: str) -> tuple[str, dict[str, Any]]:
    """`VizdoomBasic-v1?frame_skip=4&depth=false` -> the id, and arguments for `gymnasium.make`; values are JSON or texts.

    Raises:
        OptionError: what follows the ? is no KEY=VALUE.
    """
    env_id, mark, query = name.partition("?")
    arguments: dict[str, Any] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in arguments:
            raise OptionError(
                f"{name!r}: what follows the ? must be KEY=VALUE, each key once, joined by &, not {part!r}."
            )
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return env_id, arguments


def slug(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._+@=-]+", "-", name).strip("-.") or "-"


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Where two records differ, in words."""
    return [
        f"{name} {recorded.get(name)!r} then, {wanted.get(name)!r} now"
        for name in names
        if recorded.get(name) != wanted.get(name)
    ]
