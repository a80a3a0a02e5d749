"""`vpt-gym train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt_gym.cli.arguments import Formatter, add_encoder_device, count, env_arg, fraction, net_arch, positive
from vpt_gym.cli.terminal import TerminalReporter, duration, score_words
from vpt_gym.config import PRECISIONS
from vpt_gym.training.config import ALGORITHMS, VIDEO_FORMATS, TrainingConfig

if TYPE_CHECKING:
    from vpt_gym.training.train import TrainingResult

__all__ = ["add_parser"]

DEFAULTS = TrainingConfig(env_id="", encoder="")

DESCRIPTION = """\
Train a head on the latents of a frozen VPT network, measure it beside the
random policy, and leave a run folder: model.zip and vecnormalize.pkl for
Stable-Baselines3, config.json, learning_curve.png, a film of the evaluation,
episodes.csv, progress.csv and a TensorBoard log. Ctrl-C ends a run early and
saves it all."""

EXAMPLES = """\
examples:
  vpt-gym train VizdoomBasic-v1 --encoder random:tiny --steps 24000 \\
    --env-arg frame_skip=4
  vpt-gym train VizdoomBasic-v1 --env-arg frame_skip=4 --steps 200000 \\
    --encoder CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  vpt-gym train CarRacing-v3 --encoder ./vpt-2x --algo sac --n-envs 4 \\
    --steps 200000 --net-arch 256,256
  vpt-gym train my_package:MyEnv-v0 --encoder foundation-model-1x.weights \\
    --image-key pixels --keep compass"""

HYPERPARAMETERS: dict[str, tuple[Any, str]] = {
    "learning_rate": (positive, "step size of the optimiser"),
    "n_steps": (count, "steps in each environment between two updates"),
    "batch_size": (count, "samples in one gradient step"),
    "n_epochs": (count, "passes over each rollout"),
    "gamma": (fraction, "discount per step"),
    "gae_lambda": (fraction, "trade-off of bias and variance in the advantage"),
    "ent_coef": (fraction, "weight of the entropy bonus"),
    "buffer_size": (count, "steps that the replay buffer holds"),
    "learning_starts": (count, "steps before the first update"),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the commands."""
    parser = commands.add_parser(
        "train",
        help="train a head on VPT latents and leave a run folder",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument(
        "env_id",
        metavar="ENV_ID",
        help="any id of gymnasium.make with pixels to see; module:EnvId imports module first",
    )
    _add_encoder(parser.add_argument_group("encoder"))
    _add_environment(parser.add_argument_group("environment"))
    _add_learning(parser.add_argument_group("learning"))
    _add_output(parser.add_argument_group("output"))


def run(arguments: argparse.Namespace) -> int:
    """Train, and print how it went."""
    config = _config(arguments)
    from vpt_gym.training.train import train

    with TerminalReporter(config) as reporter:
        result = train(config, arguments.run_folder, reporter)
    _print_result(result, config.normalize)
    return 130 if result.interrupted else 0


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    chosen = {name: getattr(arguments, name) for name in HYPERPARAMETERS}
    env_kwargs: dict[str, Any] = {}
    for key, value in arguments.env_arg:
        if key in env_kwargs:
            arguments.parser.error(f"argument --env-arg: {key} is given twice")
        env_kwargs[key] = value
    return TrainingConfig(
        env_id=arguments.env_id,
        encoder=arguments.encoder,
        env_kwargs=env_kwargs,
        algo=arguments.algo,
        steps=arguments.steps,
        n_envs=arguments.n_envs,
        seed=arguments.seed,
        layer=arguments.layer,
        precision=arguments.precision,
        device=arguments.device,
        image_key=arguments.image_key,
        keep=tuple(arguments.keep),
        net_arch=arguments.net_arch,
        normalize=arguments.normalize,
        hyperparameters={name: value for name, value in chosen.items() if value is not None},
        eval_episodes=arguments.eval_episodes,
        video=arguments.video,
    )


def _add_encoder(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--encoder",
        required=True,
        metavar="SOURCE",
        help="the frozen VPT weights: a hub repository (owner/name or owner/name@revision), a folder with "
        "model.safetensors, a .weights or .ckpt file, or random:tiny, random:1x, random:2x, random:3x (untrained; "
        "?seed=1 draws others)",
    )
    group.add_argument(
        "--layer",
        default=DEFAULTS.layer,
        metavar="LAYER",
        help="which output is the latent: cnn, block0 to block3, final, or all of them (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        default=DEFAULTS.precision,
        choices=PRECISIONS,
        help="what the encoder computes in; auto is bfloat16 on a GPU that has it, else float32 (default: %(default)s)",
    )
    add_encoder_device(group, DEFAULTS.device, DEFAULTS.device)


def _add_environment(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--env-arg",
        action="append",
        default=[],
        type=env_arg,
        metavar="KEY=VALUE",
        help="argument of gymnasium.make, such as frame_skip=4; JSON values; repeat for more",
    )
    group.add_argument(
        "--n-envs",
        type=count,
        default=DEFAULTS.n_envs,
        metavar="N",
        help="environments in parallel, one process each (default: %(default)s)",
    )
    group.add_argument(
        "--image-key", metavar="KEY", help="the image in a Dict observation (default: the only image there is)"
    )
    group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="KEY",
        help="another key of a Dict observation for the head to see beside the latent; repeat for more",
    )


def _add_learning(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--algo", default=DEFAULTS.algo, choices=tuple(ALGORITHMS), help="the algorithm (default: %(default)s)"
    )
    group.add_argument(
        "--steps",
        type=count,
        default=DEFAULTS.steps,
        metavar="N",
        help=f"environment steps, all environments together (default: {DEFAULTS.steps:,})",
    )
    group.add_argument(
        "--seed", type=int, default=DEFAULTS.seed, metavar="N", help="of environments and head (default: %(default)s)"
    )
    group.add_argument(
        "--net-arch",
        type=net_arch,
        default=DEFAULTS.net_arch,
        metavar="WIDTHS",
        help="hidden layers of the head: 64, or 64,64; none puts a linear head on the latent (default: none)",
    )
    group.add_argument(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="hand the head latents and rewards as they are, not scaled by their running mean and deviation",
    )
    for name, (kind, words) in HYPERPARAMETERS.items():
        values = ", ".join(f"{a.defaults[name]:g} {algo}" for algo, a in ALGORITHMS.items() if name in a.defaults)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar="N" if kind is count else "X",
            help=f"{words} (default: {values})",
        )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="the run folder, new or empty (default: runs/<env>-<date>-<time>)",
    )
    group.add_argument(
        "--eval-episodes",
        type=count,
        default=DEFAULTS.eval_episodes,
        metavar="N",
        help="episodes of the evaluation, and as many of the random policy (default: %(default)s)",
    )
    group.add_argument(
        "--video",
        default=DEFAULTS.video,
        choices=VIDEO_FORMATS,
        help="the film of the evaluation, a few seconds (default: %(default)s)",
    )


def _print_result(result: TrainingResult, normalize: bool) -> None:
    if result.interrupted:
        print(
            f"vpt-gym: interrupted after {result.steps:,} steps; model, curve and config are saved in {result.folder}; "
            f"next: vpt-gym eval {result.folder}"
        )
        return
    assert result.evaluation is not None
    assert result.baseline is not None
    pace = result.steps / result.training_seconds if result.training_seconds else 0.0
    made = [
        "model.zip",
        *["vecnormalize.pkl"] * normalize,
        "config.json",
        "learning_curve.png",
        "episodes.csv",
        "progress.csv",
        "tensorboard/",
    ]
    if result.video is not None:
        made.insert(-3, result.video.name)
    print(f"  evaluation   {score_words(result.evaluation)}, actions sampled as in training")
    print(f"  random       {score_words(result.baseline)}, same environments")
    print(
        f"  time         {duration(result.total_seconds)} in all; training {duration(result.training_seconds)}, ",
        end="",
    )
    print(f"{result.steps:,} steps at {pace:.0f} frames/s")
    print(f"  saved        {', '.join(made)}")
    if result.video is None:
        print("               no video: it was not asked for, or the environment renders no rgb_array")
    print(f"Everything is in {result.folder}. Next: vpt-gym eval {result.folder}")
