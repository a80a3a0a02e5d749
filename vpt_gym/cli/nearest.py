"""`vpt-gym nearest`."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.errors import OptionError
from vpt_gym.running.options import COUNT, Option, check_options, one_of

__all__ = ["add_parser"]

DESCRIPTION = """\
Find the frames of a dataset whose latents are nearest to those of given ones:
exact, and read from disk. What is looked for is a moment of the dataset, or a
picture that its encoder is shown. Draws a contact sheet of them, out of the
recordings that the dataset was made from."""

EXAMPLES = """\
examples:
  vpt-gym nearest latents --at 0:120 --out sheet.png
  vpt-gym nearest latents --at 0:120 --at 3:40 --k 5 --apart 20 \\
    --out sheet.png
  vpt-gym nearest latents --frame screenshot.png --out sheet.png
  vpt-gym nearest latents --frame before.png --frame now.png --k 5"""

AT: Final = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Search:
    """What `vpt-gym nearest` is asked."""

    dataset: Annotated[Path, Option("a dataset of vpt-gym encode", flag="DATASET")]
    at: Annotated[
        tuple[str, ...], Option("a moment to look for: frame 120 of episode 0 is 0:120", metavar="EPISODE:FRAME")
    ] = ()
    frame: Annotated[
        tuple[str, ...],
        Option(
            "a picture to look for, .png or .jpg; of several the last, seen after those before it", metavar="PICTURE"
        ),
    ] = ()
    encoder: Annotated[
        str | None,
        Option("where the dataset's encoder is now, which is shown the pictures, if it has moved", metavar="SOURCE"),
    ] = None
    k: Annotated[int, Option("how many to find for each", COUNT)] = 8
    metric: Annotated[str, Option("distance of latents", one_of("l2", "l1"))] = "l2"
    apart: Annotated[int, Option("frames between two of one episode, so that they are different moments", COUNT)] = 20
    out: Annotated[Path | None, Option("the contact sheet's file, such as sheet.png", group="output")] = None

    def __post_init__(self) -> None:
        check_options(self)
        if not self.at and not self.frame:
            raise OptionError("nothing is looked for; give --at EPISODE:FRAME, or --frame PICTURE.")
        if self.encoder is not None and not self.frame:
            raise OptionError("encoder is given, and is of use with frame alone; give that too, or leave it out.")
        for each in self.at:
            if not AT.fullmatch(each):
                raise OptionError(f"at must be EPISODE:FRAME, such as 0:120, not {each!r}.")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nearest` to the commands."""
    add_command(
        commands,
        "nearest",
        Search,
        run,
        summary="find moments of recordings that look alike",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, and print what was found."""
    asked = record_of(Search, arguments)
    import numpy as np

    from vpt_gym.offline import LatentDataset, nearest
    from vpt_gym.offline.neighbours import Moment
    from vpt_gym.offline.pictures import latent_of_pictures, read_picture
    from vpt_gym.offline.sheet import Named, contact_sheet

    with LatentDataset(asked.dataset) as dataset:
        looked_for: list[Moment | Named] = []
        latents = []
        for each in asked.at:
            episode, frame = map(int, each.split(":"))
            if episode >= len(dataset) or frame >= dataset.episodes[episode].frames:
                raise OptionError(
                    f"{asked.dataset} has no frame {each}: it has episodes 0 to {len(dataset) - 1}, each from frame 0 on."
                )
            looked_for.append(Moment(episode, frame, 0.0))
            latents.append(dataset.read(episode, ["latents"], frame, frame + 1)[0][0])
        if asked.frame:
            pictures = [read_picture(each) for each in asked.frame]
            looked_for.append(Named(Path(asked.frame[-1]).name, pictures[-1]))
            latents.append(latent_of_pictures(dataset, pictures, asked.encoder))
        found = nearest(dataset, np.stack(latents), asked.k, metric=asked.metric, apart=asked.apart)
        for query, moments in zip(looked_for, found, strict=True):
            if isinstance(query, Moment):
                say(f"{query.episode}:{query.frame} of {dataset.episodes[query.episode].recording}")
            else:
                say(query.name)
            for moment in moments:
                name = dataset.episodes[moment.episode].recording
                say(f"  {moment.episode}:{moment.frame:<8} {moment.distance:>10.4g}  {name}")
        if asked.out is not None:
            contact_sheet(dataset, looked_for, found, asked.out)
            say(f"The contact sheet is in {asked.out}.")
    return 0
