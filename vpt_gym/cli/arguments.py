"""A command's arguments, made of declared options: `vpt_gym.running.options`."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vpt_gym.errors import OptionError
from vpt_gym.running.options import COUNT, POSITIVE, Declared, Kind, options_of

__all__ = ["Formatter", "add_command", "add_option", "count", "env_arg", "positive", "record_of"]

T = TypeVar("T")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and uses the terminal's width up to 110 characters."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 112) - 2)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    record: type,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str,
    examples: str,
    also: Sequence[type] = (),
    required: bool = True,
) -> dict[str, Any]:
    """Adds a command whose arguments are the options of dataclasses; the groups of arguments by their headings."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=Formatter,
        allow_abbrev=False,
        # What is not given stays away from the namespace, and the record's own default holds.
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run, parser=parser)
    groups: dict[str, Any] = {"": parser}
    for declared in [each for options in (record, *also) for each in options_of(options)]:
        heading = declared.option.group
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        add_option(groups[heading], declared, required=required)
    return groups


def record_of(record: type[T], arguments: argparse.Namespace) -> T:
    """The dataclass's object that the arguments describe; leaves with a sentence and exit code 2 if they cannot be."""
    names = {each.name for each in fields(record)}  # type: ignore[arg-type]  # a dataclass, which typing has no word for
    try:
        return record(**{name: value for name, value in vars(arguments).items() if name in names})
    except OptionError as error:
        parser: argparse.ArgumentParser = arguments.parser
        parser.error(str(error))


def ending_in(ending: str, path: Path) -> Path:
    """A file's path, with the ending behind its name where it is not there."""
    return path if path.suffix == ending else path.with_name(f"{path.name}{ending}")


def add_option(group: Any, declared: Declared, *, required: bool = True) -> None:
    """Adds the argument of one option, or those of its entries; `required`: what has no default must be given."""
    name, kind, default, option = declared
    for key, entry in option.entries.items():
        part = Declared(key, str, None, entry)
        group.add_argument(_flag(key), dest=name, action=_Entry, type=partial(_entry, part), **_looks(part))
    if option.flag == "":
        return
    settings = _looks(declared)
    if kind is bool:
        del settings["metavar"]
        settings["action"] = argparse.BooleanOptionalAction if default else "store_true"
    elif kind is dict:
        settings |= {"action": _Entry, "type": env_arg}
    elif kind is tuple and option.kind is None:
        settings["action"] = "append"
    else:
        settings["type"] = partial(_value, declared.kind)
    flag = option.flag or _flag(name)
    if flag.startswith("-"):
        group.add_argument(flag, dest=name, required=required and default is MISSING, **settings)
    else:
        many = {"action": "store", "nargs": "+"} if kind is tuple else {} if required else {"nargs": "?"}
        group.add_argument(name, **{**settings, **many, "metavar": flag})


class _Entry(argparse.Action):
    """Puts one key and its value into the dict of an option, each key once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        key, value = values
        entries = vars(namespace).setdefault(self.dest, {})
        if key in entries:
            parser.error(f"argument {option_string}: {key} is given twice")
        entries[key] = value


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _looks(declared: Declared) -> dict[str, Any]:
    """How an option shows in a help."""
    _, kind, default, option = declared
    if kind in (dict, tuple) and option.kind is None and not (option.flag or "-")[:1].isalpha():
        ending = "; repeat for more"
    elif default is MISSING or default is None or default is False:
        ending = ""
    else:
        shown = default
        if isinstance(default, tuple):
            shown = ",".join(map(str, default)) or "none"
        elif default is True:
            shown = "yes"
        elif option.kind is COUNT:
            shown = f"{default:,}"
        ending = f" (default: {shown})"
    words = f"{option.help}{ending}".replace("%", "%%")  # argparse formats it
    return {"help": words, "metavar": option.metavar or declared.kind.metavar}


def _value(kind: Kind, text: str) -> Any:
    """What argparse takes as a `type`: the text's value, or a refusal of the text."""
    value = kind.read(text)
    if not kind.fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind.words}")
    return value


def _entry(declared: Declared, text: str) -> tuple[str, Any]:
    return declared.name, _value(declared.kind, text)


count = partial(_value, COUNT)
positive = partial(_value, POSITIVE)


def env_arg(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`; the value is JSON (4, 0.5, true, null, [1, 2], "text"), or else the text itself."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as frame_skip=4")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
