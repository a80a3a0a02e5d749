"""`vpt-gym train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vpt_gym.cli.arguments import add_command, positive, record_of
from vpt_gym.cli.terminal import TerminalReporter, duration, say, score_words
from vpt_gym.running.options import options_of
from vpt_gym.training.config import FleetConfig, TrainingConfig

if TYPE_CHECKING:
    from vpt_gym.training.train import TrainingResult

__all__ = ["add_parser"]

DESCRIPTION = """\
Train a head on the latents of a frozen encoder, VPT or another, measure it
beside the random policy, and leave a run folder: model.zip and
vecnormalize.json for Stable-Baselines3, config.json, learning_curve.png, a
film of the evaluation, episodes.csv, progress.csv and a TensorBoard log.
Ctrl-C ends a run early and saves it all."""

REQUIRED = {"env_id": "ENV_ID", "encoder": "--encoder"}

EXAMPLES = """\
examples:
  vpt-gym train VizdoomBasic-v1 --encoder random:tiny --steps 24000 \\
    --env-arg frame_skip=4
  vpt-gym train VizdoomBasic-v1 --env-arg frame_skip=4 --steps 200000 \\
    --encoder CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  vpt-gym train CarRacing-v3 --encoder ./vpt-2x --algo sac --n-envs 4 \\
    --steps 200000 --net-arch 256,256
  vpt-gym train my_package:MyEnv-v0 --encoder foundation-model-1x.weights \\
    --image-key pixels --keep compass --encoder-arg layer=block2
  vpt-gym train VizdoomBasic-v1 --encoder ./vpt-2x --fleet ray --address auto \\
    --n-envs 64
  vpt-gym train --resume runs/VizdoomBasic-v1-20250101-120000"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the commands."""
    groups = add_command(
        commands,
        "train",
        TrainingConfig,
        run,
        summary="train a head on latents and leave a run folder",
        description=DESCRIPTION,
        examples=EXAMPLES,
        also=(FleetConfig,),
        required=False,  # a run that is resumed says itself what it trains
    )
    groups["output"].add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        default=None,
        metavar="DIR",
        help="the run folder, new or empty (default: runs/<env>-<date>-<time>)",
    )
    groups["output"].add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with this run from its newest checkpoint; --steps makes it longer, everything else is as it was",
    )
    groups["output"].add_argument(
        "--save-every",
        type=positive,
        default=60.0,
        metavar="X",
        help="seconds between two checkpoints, of which three are kept (default: 60)",
    )
    groups["output"].add_argument(
        "--wandb", action="store_true", default=False, help="log to Weights & Biases too, under the run folder's name"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, and print how it went."""
    fleet = record_of(FleetConfig, arguments)
    given = {each.name for each in options_of(TrainingConfig)} & set(vars(arguments))
    if arguments.resume is None:
        missing = [name for dest, name in REQUIRED.items() if dest not in given]
        if missing:
            arguments.parser.error(f"the following arguments are required: {', '.join(missing)}")
        config = record_of(TrainingConfig, arguments)
    elif arguments.run_folder or given - {"steps"}:
        arguments.parser.error(
            "--resume takes all that decides a run from its folder; of these arguments, --steps alone goes with it"
        )
    from vpt_gym.training.train import config_of, resume, train

    if arguments.resume is None:
        with TerminalReporter(config) as reporter:
            result = train(config, arguments.run_folder, reporter, fleet, arguments.save_every, arguments.wandb)
    else:
        steps = vars(arguments).get("steps")
        with TerminalReporter(config_of(arguments.resume, steps)) as reporter:
            result = resume(arguments.resume, steps, reporter, fleet, arguments.save_every, arguments.wandb)
    _print_result(result)
    return 130 if result.interrupted else 0


def _print_result(result: TrainingResult) -> None:
    if result.interrupted:
        say(
            f"vpt-gym: interrupted after {result.steps:,} steps; model, curve and config are saved in {result.folder}; "
            f"next: vpt-gym eval {result.folder}"
        )
        return
    assert result.evaluation is not None
    pace = result.steps / result.training_seconds if result.training_seconds else 0.0
    times = f"{duration(result.total_seconds)} in all; training {duration(result.training_seconds)}"
    made = [path.name + "/" * path.is_dir() for path in sorted(result.folder.iterdir())]
    say(f"  evaluation   {score_words(result.evaluation)}, actions sampled as in training")
    if result.baseline is not None:  # an older vpt_gym could be killed before it had noted it
        say(f"  random       {score_words(result.baseline)}, same environments")
    say(f"  time         {times}, {result.steps:,} steps at {pace:.0f} frames/s")
    say(f"  saved        {', '.join(made)}")
    if result.video is None:
        say("               no video: it was not asked for, or the environment renders no rgb_array")
    say(f"Everything is in {result.folder}. Next: vpt-gym eval {result.folder}")
