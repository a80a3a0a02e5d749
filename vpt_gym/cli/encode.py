"""`vpt-gym encode`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tqdm import tqdm

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import duration, say
from vpt_gym.offline.plan import EncodingConfig
from vpt_gym.offline.report import EncodeReporter, EncodeResult
from vpt_gym.running.options import Option
from vpt_gym.training.config import ENCODER_OPTIONS

if TYPE_CHECKING:
    from vpt_gym.encoders import Encoder
    from vpt_gym.errors import RecordingError

__all__ = ["add_parser"]

DESCRIPTION = """\
Run recordings through a frozen encoder, once, and keep the latents: a Minari
dataset where there are actions, else latents alone in the same layout. Inputs
are films, OpenAI's contractor pairs (.mp4 with .jsonl beside it), .npz
episodes, Minari datasets with image observations, MineStudio's LMDB
trajectories, and folders of them. Ctrl-C stops; the same command goes on."""

EXAMPLES = """\
examples:
  vpt-gym encode recordings/ --out latents --encoder random:tiny
  vpt-gym encode film.mp4 --out latents --dtype float16 \\
    --encoder CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  vpt-gym encode ~/.minari/datasets/my/pixels-v0 --out latents \\
    --encoder random:tiny --layer all"""

LINE_SECONDS = 60.0
"""Without a terminal, a line a minute."""


@dataclass(frozen=True, kw_only=True)
class Encoding(EncodingConfig):
    """What `vpt-gym encode` is asked, beside the recordings."""

    out: Annotated[
        Path, Option("the dataset's folder; where there is one of the same encoder, it grows", group="output")
    ]
    encoder: Annotated[str, Option("the frozen encoder, as for vpt-gym train", group="encoder", metavar="SOURCE")]
    encoder_options: Annotated[dict[str, Any], ENCODER_OPTIONS] = field(default_factory=dict)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `encode` to the commands."""
    groups = add_command(
        commands,
        "encode",
        Encoding,
        run,
        summary="turn recordings into a dataset of latents",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    groups[""].add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="a recording, or a folder of them")


def run(arguments: argparse.Namespace) -> int:
    """Encode, and print how it went."""
    asked = record_of(Encoding, arguments)
    from vpt_gym.encoders import as_encoder
    from vpt_gym.offline.encoding import encode

    config = record_of(EncodingConfig, arguments)
    encoder = as_encoder(asked.encoder, asked.encoder_options)
    try:
        with BarReporter() as reporter:
            result = encode(arguments.inputs, asked.out, encoder, config, reporter=reporter)
    finally:
        encoder.close()
    return _print_result(result, asked.out)


def _print_result(result: EncodeResult, out: Path) -> int:
    if result.stopped:
        say(
            f"vpt-gym: stopped; {result.encoded} recordings are finished and kept. The same command goes on from there."
        )
        return 130
    pace = result.frames / result.seconds if result.seconds else 0.0
    took = f"{duration(result.seconds)}, {pace:.0f} a second"
    say(f"  encoded      {result.encoded} recordings, {result.frames:,} frames in {took}")
    if result.passed:
        say(f"  passed over  {result.passed} that {out} has already")
    if result.failed:
        say(f"  left out     {len(result.failed)}, as reported above")
    say(f"  dataset      {result.path or 'none: no recording could be encoded'}")
    return 0 if result.path is not None and not result.failed else 1


class BarReporter(EncodeReporter):
    """A progress bar on a terminal, a line now and then elsewhere; failures on lines of their own."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.total: int | None = None
        self._bar: tqdm[Any] | None = None
        self._line_seconds = 0.0

    def __enter__(self) -> BarReporter:
        return self

    def __exit__(self, *args: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def starting(self, recordings: int, frames: int | None, encoder: Encoder) -> None:
        """Print what is about to happen."""
        self.total = frames
        say(f"{recordings} recordings, {'an unknown number of' if frames is None else f'{frames:,}'} frames")
        facts = encoder.describe()
        say(f"  encoder      {facts['words']}")
        if facts["untrained"]:
            say("               UNTRAINED: random weights, an architecture without anything learned")
        if self.live:
            self._bar = tqdm(total=frames, desc="  encoding    ", unit=" frames", dynamic_ncols=True)

    def progress(self, frames: int, passed: int, seconds: float) -> None:
        """Move the bar, or print a line when it is time."""
        if self._bar is not None:
            # What is passed over takes no time, and would make the time left too short.
            if self.total is not None:
                self._bar.total = self.total - passed
            self._bar.update(frames - self._bar.n)
        elif seconds - self._line_seconds >= LINE_SECONDS:
            self._line_seconds = seconds
            pace = frames / seconds
            left = "" if self.total is None else f", {duration((self.total - passed - frames) / pace)} left"
            say(f"  encoding     {frames:,} frames, {pace:.0f} a second{left}")

    def failed(self, name: str, error: RecordingError) -> None:
        """Print which recording is left out, and why."""
        tqdm.write(f"vpt-gym: {name} is left out: {' '.join(str(error).split())}", file=sys.stderr)
