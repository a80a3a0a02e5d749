"""`vpt-gym push`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.errors import OptionError
from vpt_gym.running.options import Option, check_options

__all__ = ["add_parser"]

DESCRIPTION = """\
Put what was trained onto the Hugging Face hub: an encoder of `vpt-gym
pretrain`, or the head of a run folder with its scaling, as safetensors and
JSON. Log in with `hf auth login` or HF_TOKEN before."""

EXAMPLES = """\
examples:
  vpt-gym push my-encoder owner/my-encoder
  vpt-gym train ENV --encoder owner/my-encoder
  vpt-gym push runs/VizdoomBasic-v1-20250101-120000 owner/ppo-VizdoomBasic-v1"""


@dataclass(frozen=True)
class Pushing:
    """What `vpt-gym push` is asked."""

    folder: Annotated[Path, Option("a folder of vpt-gym pretrain, or a run folder of vpt-gym train", flag="FOLDER")]
    repository: Annotated[str, Option("owner/name on the hub, new or yours", flag="REPOSITORY")]
    private: Annotated[bool, Option("a repository that is made is for you alone")] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.repository.count("/") != 1:
            raise OptionError(f"The repository must be owner/name, not {self.repository!r}.")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `push` to the commands."""
    add_command(
        commands,
        "push",
        Pushing,
        run,
        summary="put an encoder or a head onto the hub",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Push, with huggingface_hub's progress bars, and print where it lies."""
    asked = record_of(Pushing, arguments)
    from vpt_gym.weights.upload import encoder_files, upload

    if (asked.folder / "model.safetensors").is_file():
        files = encoder_files(asked.folder, asked.repository)
    else:
        from vpt_gym.training.publishing import run_files

        files = run_files(asked.folder, asked.repository)
    address = upload(
        files, asked.repository, private=asked.private, message=f"{asked.folder.resolve().name}, by vpt-gym"
    )
    say(f"{asked.repository} has {', '.join(sorted(files))}: {address}")
    return 0
