"""Everything that decides a training run, as one frozen record that survives JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from vpt_gym.errors import VPTGymError

__all__ = ["ALGORITHMS", "EVALUATION_SEED", "VIDEO_FORMATS", "Algorithm", "TrainingConfig", "check_seed"]

VIDEO_FORMATS: Final = ("gif", "mp4", "none")

EVALUATION_SEED: Final = 1_000_000
"""Added to a run's seed for its evaluation and its random policy: both open on episodes that training has not seen."""

SEEDS: Final = 2**32
"""NumPy's global generator, which Stable-Baselines3 seeds, takes seeds below this."""


@dataclass(frozen=True)
class Algorithm:
    """One Stable-Baselines3 algorithm: what it can act on and the hyperparameters that a run may set.

    Attributes:
        action_spaces: names of the `gymnasium.spaces` classes that its policy can act in.
        defaults: every hyperparameter that a run may set, by Stable-Baselines3's name, with its default here.
        on_policy: it learns from whole rollouts of `n_steps` steps in each env, not from a replay buffer.
    """

    action_spaces: tuple[str, ...]
    defaults: Mapping[str, int | float]
    on_policy: bool


_ANY_SPACE: Final = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")

ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        "ppo": Algorithm(
            _ANY_SPACE,
            MappingProxyType(
                {
                    "learning_rate": 1e-3,
                    "n_steps": 64,
                    "batch_size": 64,
                    "n_epochs": 4,
                    "gamma": 0.99,
                    "gae_lambda": 0.95,
                    "ent_coef": 0.01,
                }
            ),
            on_policy=True,
        ),
        "a2c": Algorithm(
            _ANY_SPACE,
            MappingProxyType({"learning_rate": 7e-4, "n_steps": 8, "gamma": 0.99, "gae_lambda": 1.0, "ent_coef": 0.01}),
            on_policy=True,
        ),
        "dqn": Algorithm(
            ("Discrete",),
            MappingProxyType(
                {
                    "learning_rate": 1e-4,
                    "batch_size": 64,
                    "gamma": 0.99,
                    "buffer_size": 50_000,
                    "learning_starts": 1_000,
                }
            ),
            on_policy=False,
        ),
        "sac": Algorithm(
            ("Box",),
            MappingProxyType(
                {
                    "learning_rate": 3e-4,
                    "batch_size": 256,
                    "gamma": 0.99,
                    "buffer_size": 50_000,
                    "learning_starts": 1_000,
                }
            ),
            on_policy=False,
        ),
    }
)
"""The algorithms of `vpt-gym train`, by the name that `--algo` takes."""


@dataclass(frozen=True)
class TrainingConfig:
    """One training run, complete: with the same packages and hardware, the same record gives the same run.

    Attributes:
        env_id: any id that `gymnasium.make` takes, `module:EnvId` included.
        encoder: source of the frozen VPT network, as `vpt_gym.load_encoder` takes it.
        env_kwargs: keyword arguments of `gymnasium.make`; JSON values only.
        algo: a key of `ALGORITHMS`.
        steps: environment steps, counted over all envs together; on-policy algorithms finish the rollout they are in.
        n_envs: environments stepped in parallel, each in a process of its own.
        seed: seeds the environments, the head's weights and its sampling.
        layer: the network's output that becomes the latent.
        precision: of the encoder, one of `vpt_gym.config.PRECISIONS`.
        device: of the encoder, `auto`, `cpu`, `cuda`, ...; the head always trains on the CPU, because it is small.
        image_key: name of the image in a Dict observation; None finds it.
        keep: further keys of a Dict observation that the head sees beside the latent.
        net_arch: widths of the head's hidden layers; empty for a linear policy and a linear value on the latent.
        normalize: scale latents, and rewards while training, by their running mean and deviation (SB3's VecNormalize).
        hyperparameters: values that differ from the algorithm's defaults; `resolved` gives all of them.
        eval_episodes: episodes of the evaluation after training, and of the random policy before it.
        video: `gif`, `mp4` or `none`.

    Raises:
        VPTGymError: a value is out of range, or a hyperparameter is not one of the algorithm's.
    """

    env_id: str
    encoder: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    algo: str = "ppo"
    steps: int = 100_000
    n_envs: int = 8
    seed: int = 0
    layer: str = "final"
    precision: str = "auto"
    device: str = "auto"
    image_key: str | None = None
    keep: tuple[str, ...] = ()
    net_arch: tuple[int, ...] = ()
    normalize: bool = True
    hyperparameters: dict[str, int | float] = field(default_factory=dict)
    eval_episodes: int = 20
    video: str = "gif"

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            raise VPTGymError(f"algo must be one of {', '.join(ALGORITHMS)}, not {self.algo!r}.")
        if self.video not in VIDEO_FORMATS:
            raise VPTGymError(f"video must be one of {', '.join(VIDEO_FORMATS)}, not {self.video!r}.")
        for name in ("steps", "n_envs", "eval_episodes"):
            if getattr(self, name) < 1:
                raise VPTGymError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        # Environment i takes seed + i, and `vpt-gym eval` starts one above the run's own evaluation.
        check_seed(self.seed, EVALUATION_SEED + 1 + self.n_envs)
        if any(width < 1 for width in self.net_arch):
            raise VPTGymError(f"net_arch holds widths of 1 or more, not {list(self.net_arch)}.")
        known = ALGORITHMS[self.algo].defaults
        for name in self.hyperparameters:
            if name not in known:
                raise VPTGymError(f"{self.algo.upper()} has no {name}; it takes {', '.join(known)}.")
        rollout, batch = self.rollout_steps, self.resolved.get("batch_size")
        if ALGORITHMS[self.algo].on_policy and batch is not None and rollout % batch:
            raise VPTGymError(
                f"batch_size must divide a rollout, but n_steps x n_envs = {rollout} is not a multiple of {batch}; "
                f"choose another batch_size or n_steps."
            )

    @property
    def resolved(self) -> dict[str, int | float]:
        """Every hyperparameter of the algorithm, chosen or default."""
        return {**ALGORITHMS[self.algo].defaults, **self.hyperparameters}

    @property
    def rollout_steps(self) -> int:
        """Environment steps between two updates of an on-policy head; `n_envs` for the others."""
        return int(self.resolved.get("n_steps", 1)) * self.n_envs

    @property
    def planned_steps(self) -> int:
        """`steps`, rounded up to whole rollouts: what the run will really take."""
        return -(-self.steps // self.rollout_steps) * self.rollout_steps

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, with all hyperparameters spelled out."""
        return {
            **asdict(self),
            "keep": list(self.keep),
            "net_arch": list(self.net_arch),
            "hyperparameters": self.resolved,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read what `to_dict` wrote.

        Raises:
            VPTGymError: a key is missing or unknown (another version of vpt_gym wrote it), or a value is out of range.
        """
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            odd = ", ".join(sorted(names ^ set(values)))
            raise VPTGymError(
                f"The run's config does not hold exactly the keys of this vpt_gym (it differs in: {odd}); "
                f"use the vpt_gym version that the config names."
            )
        for name, value in values.items():
            if not _fits(name, value):
                raise VPTGymError(f"{name} must be {_JSON_FIELDS[name]}, not {value!r}.")
        return cls(**{**values, "keep": tuple(values["keep"]), "net_arch": tuple(values["net_arch"])})


def check_seed(seed: int, room: int) -> None:
    """Refuse a seed that leaves no room for the seeds that are counted up from it.

    Args:
        seed: the seed.
        room: how far above it the seeds reach.

    Raises:
        VPTGymError: it is below 0 or too large.
    """
    if not 0 <= seed < SEEDS - room:
        raise VPTGymError(f"seed must be from 0 to {SEEDS - room - 1}, not {seed}.")


_JSON_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("env_id", "encoder", "algo", "layer", "precision", "device", "video"), "a text"),
        **dict.fromkeys(("steps", "n_envs", "seed", "eval_episodes"), "a whole number"),
        "env_kwargs": "an object",
        "image_key": "a text or null",
        "keep": "a list of texts",
        "net_arch": "a list of whole numbers",
        "normalize": "true or false",
        "hyperparameters": "an object of numbers above or equal to 0, n_steps and batch_size 1 or more",
    }
)


def _fits(name: str, value: Any) -> bool:
    """Whether a JSON value has the type of a field; JSON's true is no number, though Python's True is one."""
    kind = _JSON_FIELDS[name]
    if kind.startswith("a list"):
        wanted = str if name == "keep" else int
        return isinstance(value, list) and all(type(item) is wanted for item in value)
    if name == "hyperparameters":
        return isinstance(value, dict) and all(
            type(number) in (int, float) and number >= (key in ("n_steps", "batch_size"))
            for key, number in value.items()
        )
    if name == "image_key":
        return value is None or isinstance(value, str)
    types = {"a text": str, "a whole number": int, "an object": dict, "true or false": bool}
    return type(value) is types[kind]
