"""`vpt-gym eval`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vpt_gym.cli.arguments import Formatter, add_encoder_device, count, video_path
from vpt_gym.cli.terminal import TerminalReporter, score_words

__all__ = ["add_parser"]

DESCRIPTION = """\
Play whole episodes with the policy of a run folder, in its environment and on
its encoder, and film some of them. The encoder must be the one of the
training: its fingerprint is compared with the one in config.json."""

EXAMPLES = """\
examples:
  vpt-gym eval runs/VizdoomBasic-v1-20250101-120000
  vpt-gym eval runs/VizdoomBasic-v1-20250101-120000 --episodes 100 \\
    --deterministic --video best.mp4"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `eval` to the commands."""
    parser = commands.add_parser(
        "eval",
        help="play and film what a run folder holds",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder of vpt-gym train")
    group = parser.add_argument_group("playing")
    group.add_argument("--episodes", type=count, default=20, metavar="N", help="how many (default: %(default)s)")
    group.add_argument(
        "--seed", type=int, metavar="N", help="of environments and sampling (default: one that training has not used)"
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--deterministic", action="store_true", help="take the likeliest action at every step")
    choice.add_argument(
        "--stochastic", action="store_true", help="sample the actions, as training does (this is the default)"
    )
    group.add_argument(
        "--video",
        type=video_path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="the film, .gif or .mp4, or none (default: RUN/eval.gif)",
    )
    encoder = parser.add_argument_group("encoder")
    encoder.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="where the weights of the training are now (default: where the run found them)",
    )
    add_encoder_device(encoder, None, "the run's choice")


def run(arguments: argparse.Namespace) -> int:
    """Play, and print the score."""
    from vpt_gym.training.evaluate import evaluate

    video: Path | None = getattr(arguments, "video", None)
    with TerminalReporter() as reporter:
        result = evaluate(
            arguments.run_folder,
            episodes=arguments.episodes,
            seed=arguments.seed,
            deterministic=arguments.deterministic,
            video=video,
            film=video is not None or not hasattr(arguments, "video"),
            encoder=arguments.encoder,
            device=arguments.device,
            reporter=reporter,
        )
    how = "likeliest actions" if arguments.deterministic else "sampled actions"
    print(f"{result.config.env_id}: {result.config.algo.upper()} of {arguments.run_folder}")
    print(f"  return   {score_words(result.score)}, {how}")
    if result.baseline is not None:
        print(f"  random   {score_words(result.baseline)}, measured when the run was trained")
    if result.video is not None:
        print(f"  video    {result.video}")
    return 0
