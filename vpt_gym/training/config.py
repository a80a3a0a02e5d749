"""Everything that decides a training run, and an evaluation of one, as frozen records that survive JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from vpt_gym.checks import check_goal
from vpt_gym.config import PRECISIONS
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.options import (
    COUNT,
    FILM,
    FRACTION,
    POSITIVE,
    WIDTHS,
    Kind,
    Option,
    check_options,
    documented,
    one_of,
)

__all__ = ["ALGORITHMS", "ENCODER_OPTIONS", "Algorithm", "EvaluationConfig", "FleetConfig", "TrainingConfig"]

ADDED: Final = frozenset({"goal", "goal_key", "clip"})
"""What older runs do not record, since they had none of it: the defaults."""

SEEDS: Final = 2**32
"""NumPy's global generator, which Stable-Baselines3 seeds, takes seeds below this."""


@dataclass(frozen=True)
class Algorithm:
    """One Stable-Baselines3 algorithm: what it can act on and the hyperparameters that a run may set.

    Attributes:
        action_spaces: names of the `gymnasium.spaces` classes that its policy can act in; empty where its constructor says.
        defaults: hyperparameters by Stable-Baselines3's names, with their defaults here.
        on_policy: it learns from whole rollouts of `n_steps` steps in each env, not from a replay buffer.
    """

    action_spaces: tuple[str, ...]
    defaults: Mapping[str, Any]
    on_policy: bool


_ANY_SPACE: Final = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_PPO: Final = {"learning_rate": 1e-3, "n_steps": 64, "batch_size": 64, "n_epochs": 4, "gae_lambda": 0.95}
_REPLAY: Final = {"gamma": 0.99, "buffer_size": 50_000, "learning_starts": 1_000}

ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    "ppo": Algorithm(_ANY_SPACE, {**_PPO, "gamma": 0.99, "ent_coef": 0.01}, on_policy=True),
    "a2c": Algorithm(
        _ANY_SPACE,
        {"learning_rate": 7e-4, "n_steps": 8, "gamma": 0.99, "gae_lambda": 1.0, "ent_coef": 0.01},
        on_policy=True,
    ),
    "dqn": Algorithm(
        ("Discrete",), {"learning_rate": 1e-4, "batch_size": 64, "train_freq": 4, **_REPLAY}, on_policy=False
    ),
    "sac": Algorithm(("Box",), {"learning_rate": 3e-4, "batch_size": 256, "train_freq": 1, **_REPLAY}, on_policy=False),
}
"""The algorithms with defaults for latents, by the name that `--algo` takes; others come by the name of their class."""

_WITH_CONVOLUTIONS: Final[Mapping[str, Mapping[str, Any]]] = {"ppo": {"learning_rate": 3e-4}}
"""Other defaults where convolutions are trained too: Stable-Baselines3's own, since what suits a linear head breaks them."""

ALGORITHM: Final = Kind(
    f"one of {', '.join(ALGORITHMS)}, or the class of an algorithm", "NAME", lambda v: isinstance(v, str)
)


_HYPERPARAMETERS: Final[Mapping[str, tuple[str, Kind]]] = {
    "learning_rate": ("step size of the optimiser", POSITIVE),
    "n_steps": ("steps in each environment between two updates", COUNT),
    "batch_size": ("samples in one gradient step", COUNT),
    "n_epochs": ("passes over each rollout", COUNT),
    "gamma": ("discount per step", FRACTION),
    "gae_lambda": ("trade-off of bias and variance in the advantage", FRACTION),
    "ent_coef": ("weight of the entropy bonus", FRACTION),
    "buffer_size": ("steps that the replay buffer holds", COUNT),
    "learning_starts": ("steps before the first update", COUNT),
    "train_freq": ("steps in each environment between two updates from a replay buffer", COUNT),
}


def _defaults(name: str) -> str:
    return ", ".join(f"{a.defaults[name]:g} {algo}" for algo, a in ALGORITHMS.items() if name in a.defaults)


HYPERPARAMETERS: Final = {n: Option(f"{h} (default: {_defaults(n)})", k) for n, (h, k) in _HYPERPARAMETERS.items()}
"""What algorithms can be told, by Stable-Baselines3's names; each algorithm knows some of them."""

_VPT_OPTIONS: Final = {
    "layer": "which output of VPT is the latent: cnn, block0 to block3, final (what it takes by itself), or all of them",
    "precision": f"what the encoder computes in: {', '.join(PRECISIONS)}; by itself auto, bfloat16 on a GPU that has it",
    "device": "where the encoder runs: cpu, cuda, cuda:1, or by itself auto, a CUDA GPU if there is one",
}

ENCODER_OPTIONS: Final = Option(
    "options of that kind of encoder, as vpt_gym.load_encoder takes them, such as layer=cnn; JSON values",
    group="encoder",
    flag="--encoder-arg",
    entries={name: Option(words, metavar=name.upper()) for name, words in _VPT_OPTIONS.items()},
)
"""Keyword arguments of `load_encoder`, wherever a command takes an encoder; the everyday ones have flags of their own."""

_SOURCE: Final = """\
the frozen encoder: VPT weights in a hub repository (owner/name or owner/name@revision), a folder with model.safetensors, a
.weights or .ckpt file; doom:mini, trained on Doom, in the package; random:tiny, random:1x, random:2x, random:3x (untrained;
?seed=1 draws others); an image network: timm:<model>, efficientnet-lite0:imagenet; a video diffusion model: video:<folder or
hub id>; or a kind of your own"""

_encoder = partial(Option, group="encoder")
_environment = partial(Option, group="environment")
_learning = partial(Option, group="learning")
_output = partial(Option, group="output")


@documented
@dataclass(frozen=True)
class TrainingConfig:
    """One training run, complete: with the same packages and hardware, the same record gives the same run.

    Raises:
        OptionError: a value is out of range, or a hyperparameter is not one of the algorithm's.
    """

    env_id: Annotated[
        str, Option("any id of gymnasium.make with pixels to see; module:EnvId imports module first", flag="ENV_ID")
    ]
    encoder: Annotated[str, _encoder(_SOURCE, metavar="SOURCE")]
    encoder_options: Annotated[dict[str, Any], ENCODER_OPTIONS] = field(default_factory=dict)
    env_kwargs: Annotated[
        dict[str, Any],
        _environment("arguments of gymnasium.make, such as frame_skip=4; JSON values", flag="--env-arg"),
    ] = field(default_factory=dict)
    n_envs: Annotated[int, _environment("environments in parallel, one process each", COUNT)] = 8
    image_key: Annotated[
        str | None, _environment("the image in a Dict observation (default: the only image there is)", metavar="KEY")
    ] = None
    keep: Annotated[
        tuple[str, ...],
        _environment("other keys of a Dict observation that the head sees beside the latent", metavar="KEY"),
    ] = ()
    goal: Annotated[
        str | None,
        _environment("what is wanted, in words, which the head is told beside the latent", metavar="WORDS"),
    ] = None
    goal_key: Annotated[
        str | None,
        _environment("an entry of a Dict observation that says the goal, a Text, in place of --goal", metavar="KEY"),
    ] = None
    clip: Annotated[
        str | None,
        _environment(
            "a folder or hub repository with the CLIP that embeds goals (default: the paper's)", metavar="PLACE"
        ),
    ] = None
    pixels: Annotated[
        str,
        _learning(
            "a network that is trained with the head on the frame of the moment, beside the latent: cnn is "
            "Stable-Baselines3's, impala VPT's convolutions at IMPALA's width; with the encoder frames:128, which "
            "is none, in its place",
            one_of("none", "cnn", "impala"),
        ),
    ] = "none"
    algo: Annotated[
        str,
        _learning(
            "ppo, a2c, dqn or sac, with defaults for latents; or any other algorithm of stable-baselines3, sb3-contrib "
            "(RecurrentPPO, TQC) or vpt_gym (KLPPO) by the name of its class, with its own defaults",
            ALGORITHM,
        ),
    ] = "ppo"
    steps: Annotated[int, _learning("environment steps, all environments together", COUNT)] = 100_000
    seed: Annotated[int, _learning("of environments and head")] = 0
    net_arch: Annotated[
        tuple[int, ...],
        _learning("hidden layers of the head: 64, or 64,64; none puts a linear head on the latent", WIDTHS),
    ] = ()
    normalize: Annotated[
        bool,
        _learning("scale latents, and rewards in training, by their running mean and deviation (VecNormalize)"),
    ] = True
    hyperparameters: Annotated[
        dict[str, Any],
        _learning(
            "any hyperparameter of the algorithm by its name in its constructor, such as clip_range=0.1; JSON values",
            flag="--algo-arg",
            entries=HYPERPARAMETERS,
        ),
    ] = field(default_factory=dict)
    eval_episodes: Annotated[int, _output("episodes of the evaluation, and of the random policy", COUNT)] = 20
    video: Annotated[str, _output("the film of the evaluation, a few seconds", one_of("gif", "mp4", "none"))] = "gif"

    def __post_init__(self) -> None:
        check_options(self)
        check_seed(self.seed)
        check_goal(self.goal, self.goal_key, self.clip)
        self._check_algorithm()
        rollout, batch = self.rollout_steps, self.resolved.get("batch_size")
        if self.algorithm.on_policy and isinstance(batch, int) and rollout % batch:
            raise OptionError(
                f"batch_size must divide a rollout, but n_steps x n_envs = {rollout} is not a multiple of {batch}; "
                f"choose another batch_size or n_steps."
            )

    def _check_algorithm(self) -> None:
        """Puts the algorithm's name as it is written; raises OptionError if there is none, or not with these values."""
        name = self.algo.lower()
        if name not in ALGORITHMS:
            from vpt_gym.training.classes import algorithm_class

            name = algorithm_class(self.algo).__name__
        object.__setattr__(self, "algo", name)
        known: Collection[str] = self.algorithm.defaults
        for name, value in self.hyperparameters.items():
            if name not in known:
                from vpt_gym.training.classes import algorithm_class, parameters_of

                known = parameters_of(algorithm_class(self.algo))
            if name not in known:
                raise OptionError(f"{self.algo.upper()} has no {name}; it takes {', '.join(known)}.")
            # A number is checked here; what else a constructor takes, such as [1, "episode"], it checks itself.
            if name in _HYPERPARAMETERS and (self.algo in ALGORITHMS or isinstance(value, (int, float))):
                _HYPERPARAMETERS[name][1].check(name, value)

    @property
    def algorithm(self) -> Algorithm:
        """What is known of the algorithm."""
        if self.algo in ALGORITHMS:
            return ALGORITHMS[self.algo]
        from vpt_gym.training.classes import algorithm_class, describe

        return describe(algorithm_class(self.algo))

    @property
    def resolved(self) -> dict[str, Any]:
        """Every hyperparameter of the algorithm, chosen or default."""
        convolutions = {} if self.pixels == "none" else _WITH_CONVOLUTIONS.get(self.algo, {})
        return {**self.algorithm.defaults, **convolutions, **self.hyperparameters}

    @property
    def rollout_steps(self) -> int:
        """Environment steps that a run takes at once, between two updates; `n_envs` where the algorithm counts episodes."""
        steps = self.resolved.get("n_steps" if self.algorithm.on_policy else "train_freq", 1)
        return (steps if isinstance(steps, int) else 1) * self.n_envs

    @property
    def planned_steps(self) -> int:
        """`steps`, rounded up to whole rollouts: what the run will really take."""
        return -(-self.steps // self.rollout_steps) * self.rollout_steps

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, with all hyperparameters spelled out."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**values, "hyperparameters": self.resolved}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read what `to_dict` wrote.

        Raises:
            VPTGymError: a key is missing or unknown (another version of vpt_gym wrote it), or a value is out of range.
        """
        names = {f.name for f in fields(cls)}
        if not names - ADDED <= set(values) <= names:
            odd = ", ".join(sorted(names ^ set(values)))
            raise VPTGymError(
                f"The run's config does not hold exactly the keys of this vpt_gym (it differs in: {odd}); "
                f"use the vpt_gym version that the config names."
            )
        return cls(**values)


_fleet = partial(Option, group="fleet")
_BYTES: Final = "bytes that Ray sets aside for each environment, such as 2e9"


@documented
@dataclass(frozen=True)
class FleetConfig:
    """Where the environments of a run are, and when one counts as failed; nothing of it changes what is learnt.

    Raises:
        OptionError: a value is out of range, or is Ray's and Ray is not asked for.
    """

    fleet: Annotated[
        str,
        _fleet(
            "where environments run: processes of this machine, or ray, its actors here or on many machines",
            one_of("processes", "ray"),
        ),
    ] = "processes"
    address: Annotated[
        str | None, _fleet("a running Ray cluster, such as auto or 10.0.0.1:6379 (default: a Ray of its own here)")
    ] = None
    env_cpus: Annotated[float | None, _fleet("cores that Ray sets aside for each environment", POSITIVE)] = None
    env_memory: Annotated[float | None, _fleet(_BYTES, POSITIVE)] = None
    env_resources: Annotated[
        dict[str, Any],
        _fleet("custom resources of Ray's that each environment takes up, such as minecraft=1", flag="--env-resource"),
    ] = field(default_factory=dict)
    deadline: Annotated[
        float,
        _fleet("seconds that a step may take before the environment counts as hanging and is made anew", POSITIVE),
    ] = 120.0
    max_failures: Annotated[
        int, _fleet("failures in a row, of one environment, that end the run; what is learnt is saved", COUNT)
    ] = 10
    overlap: Annotated[
        bool,
        _fleet("encode frames that are there while slow environments still step; changes latents by rounding"),
    ] = False

    def __post_init__(self) -> None:
        check_options(self)
        rays = {"address": self.address, "env_cpus": self.env_cpus, "env_memory": self.env_memory}
        given = [
            name for name, value in {**rays, "env_resources": self.env_resources or None}.items() if value is not None
        ]
        if given and self.fleet != "ray":
            raise OptionError(f"{given[0]} is Ray's, and the environments are in {self.fleet}; give --fleet ray too.")

    @property
    def vec_env_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the VecEnv."""
        terms: dict[str, Any] = {"deadline": self.deadline, "max_failures": self.max_failures}
        if self.fleet != "ray":
            return terms
        asked = {"num_cpus": self.env_cpus, "memory": self.env_memory, "resources": self.env_resources}
        return {**terms, "address": self.address, **asked}


_playing = partial(Option, group="playing")
_OTHER_THAN_THE_RUNS: Final = "encoder, where other than the run's"


@documented
@dataclass(frozen=True)
class EvaluationConfig:
    """Whole episodes with the policy of a run folder, in its environment and on its encoder.

    Raises:
        OptionError: a value is out of range.
    """

    folder: Annotated[Path, Option("a run folder of vpt-gym train", flag="RUN")]
    episodes: Annotated[int, _playing("how many", COUNT)] = 20
    seed: Annotated[
        int | None,
        _playing(
            "of environments and sampling; whatever it is, no training has seen the episodes (default: the run's)"
        ),
    ] = None
    deterministic: Annotated[
        bool, _playing("take the likeliest action at every step, instead of sampling, as training does")
    ] = False
    video: Annotated[Path | str | None, _playing("the film, .gif or .mp4, or none (default: RUN/eval.gif)", FILM)] = (
        None
    )
    policy: Annotated[
        Path | None,
        _playing("a policy of vpt-gym diffuse, .safetensors, that plays in place of the run's model", metavar="FILE"),
    ] = None
    goal: Annotated[
        str | None, _playing("what that policy shall do, in words, where it was trained with goals", metavar="WORDS")
    ] = None
    clip: Annotated[
        str | None,
        _playing(
            "a folder or hub repository with the CLIP that embeds the goal (default: the paper's)", metavar="PLACE"
        ),
    ] = None
    trust: Annotated[
        bool,
        _playing(
            "read the run's pickles, which old runs have, and run whatever code is in them: only of people you trust"
        ),
    ] = False
    encoder: Annotated[
        str | None, Option("where the weights of the training are now", group=_OTHER_THAN_THE_RUNS, metavar="SOURCE")
    ] = None
    encoder_options: Annotated[dict[str, Any], replace(ENCODER_OPTIONS, group=_OTHER_THAN_THE_RUNS)] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.seed is not None:
            check_seed(self.seed)
        for name, needed in (("goal", "policy"), ("clip", "goal")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise OptionError(
                    f"{name} is given, and is of use with {needed} alone; give that too, or leave it out."
                )


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy's global generator cannot take.

    Raises:
        OptionError: it is below 0 or too large.
    """
    if not 0 <= seed < SEEDS:
        raise OptionError(f"seed must be from 0 to {SEEDS - 1}, not {seed}.")
