"""`vpt-gym eval`."""

from __future__ import annotations

import argparse

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import TerminalReporter, say, score_words
from vpt_gym.training.config import EvaluationConfig

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
    add_command(
        commands,
        "eval",
        EvaluationConfig,
        run,
        summary="play and film what a run folder holds",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Play, and print the score."""
    config = record_of(EvaluationConfig, arguments)
    from vpt_gym.training.evaluate import evaluate

    with TerminalReporter() as reporter:
        result = evaluate(config, reporter)
    how = "likeliest actions" if config.deterministic else "sampled actions"
    say(f"{result.training.env_id}: {result.training.algo.upper()} of {config.folder}")
    say(f"  return   {score_words(result.score)}, {how}")
    if result.baseline is not None:
        say(f"  random   {score_words(result.baseline)}, measured when the run was trained")
    if result.video is not None:
        say(f"  video    {result.video}")
    elif config.video is None:
        say("  video    none: the environment renders no rgb_array")
    if result.status != "finished":
        say(f"  note     the run is {result.status}, not finished; this is the last model that it saved")
    if result.differences:
        say(f"  note     other versions than the training's: {'; '.join(result.differences)}")
    return 0
