"""An option is declared once, on the field of a frozen dataclass: its checks, JSON, docstring and command line follow.

`steps: Annotated[int, Option("how far to go", COUNT)] = 10` says name, type and default by the field, the rest by the `Option`.
`check_options` and `documented` use it here, `vpt_gym.cli.arguments` makes `--steps N` of it. Free of torch, so that a command
line's help need not wait for it.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from vpt_gym.checks import is_between, is_count, is_whole
from vpt_gym.errors import OptionError

__all__ = ["COUNT", "FILM", "FRACTION", "POSITIVE", "WIDTHS", "Declared", "Kind", "Option"]
__all__ += ["check_options", "documented", "one_of", "options_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        words: what a value is, as a refusal says it.
        metavar: stands for a value in a help.
        fits: whether a value is one.
        read: from a command line's text to a value, which need not fit.
        keep: from a value that fits to the form that is kept, such as a tuple for JSON's list.
    """

    words: str
    metavar: str
    fits: Callable[[Any], bool]
    read: Callable[[str], Any] = str
    keep: Callable[[Any], Any] = lambda value: value

    def check(self, name: str, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            OptionError: it does not fit.
        """
        if not self.fits(value):
            raise OptionError(f"{name} must be {self.words}, not {value!r}.")
        return self.keep(value)


def _number(text: str) -> Any:
    """100_000 and 1e5 are whole numbers too; what is no number stays a text, which fits nowhere."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and all(fits(item) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


COUNT: Final = Kind("a whole number of 1 or more, such as 24000 or 1e5", "N", is_count, _number, int)
POSITIVE: Final = Kind("a number above 0", "X", lambda v: is_between(v, 0) and v > 0, _number)
FRACTION: Final = Kind("a number from 0 to 1", "X", lambda v: is_between(v, 0, 1), _number)
WIDTHS: Final = Kind(
    "a list of layer widths, such as 64 or 64,64, or none",
    "WIDTHS",
    lambda v: _is_list(v, is_count),
    lambda text: () if text == "none" else tuple(_number(width) for width in text.split(",")),
    lambda v: tuple(int(width) for width in v),
)
FILM: Final = Kind(
    "a path that must end in .gif or .mp4, or none",
    "PATH",
    lambda v: v == "none" or (isinstance(v, (str, Path)) and Path(v).suffix in (".gif", ".mp4")),
    keep=lambda v: v if v == "none" else Path(v),
)

_OF_TYPES: Final[Mapping[Any, Kind]] = {
    str: Kind("a text", "TEXT", _is_text),
    int: Kind("a whole number", "N", is_whole, _number, int),
    bool: Kind("true or false", "", lambda v: isinstance(v, bool)),
    Path: Kind("a path", "PATH", lambda v: isinstance(v, (str, Path)), keep=Path),
    tuple: Kind("a list of texts", "TEXT", lambda v: _is_list(v, _is_text), keep=tuple),
    dict: Kind("an object of JSON values", "KEY=VALUE", lambda v: isinstance(v, dict) and _is_json(v), keep=dict),
}
"""The kinds of options that name none, by the types of their fields."""


def one_of(*names: str) -> Kind:
    """The kind whose values are these names."""
    return Kind(f"one of {', '.join(names)}", f"{{{','.join(names)}}}", lambda v: _is_text(v) and v in names)


@dataclass(frozen=True)
class Option:
    """What is to know about an option beside its name, type and default.

    Attributes:
        help: what it means, for the docstring and the help.
        kind: what values it takes; None for any of the field's type.
        group: under which heading a help lists it.
        flag: its name on a command line where that is not made of the field's, such as `--env-arg`; a name without dashes is a
            positional argument's; empty where it has none and only its `entries` do.
        metavar: stands for a value in a help, where the kind's own says too little.
        entries: of a dict: the entries that a command line gives by flags of their own.
    """

    help: str
    kind: Kind | None = None
    group: str = ""
    flag: str | None = None
    metavar: str | None = None
    entries: Mapping[str, Option] = field(default_factory=dict)


class Declared(NamedTuple):
    """A field that is an option; `type` without its arguments and without None, `default` perhaps `dataclasses.MISSING`."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def kind(self) -> Kind:
        """What values it takes."""
        return self.option.kind or _OF_TYPES[self.type]


def options_of(record: type) -> list[Declared]:
    """The fields of a dataclass that are declared as options, in order."""
    hints = get_type_hints(record, include_extras=True)
    found = []
    for each in fields(record):
        for option in getattr(hints[each.name], "__metadata__", ()):
            hint = get_args(hints[each.name])[0]
            if type(None) in get_args(hint):
                hint = get_args(hint)[0]
            default = each.default if each.default_factory is MISSING else each.default_factory()
            found.append(Declared(each.name, get_origin(hint) or hint, default, option))
    return found


def check_options(record: Any) -> None:
    """Checks every option of a frozen dataclass's object, and puts each value into the form that is kept.

    Raises:
        OptionError: a value does not fit. None fits where it is the default.
    """
    for declared in options_of(type(record)):
        value = getattr(record, declared.name)
        if value is not None or declared.default is not None:
            object.__setattr__(record, declared.name, declared.kind.check(declared.name, value))


def documented(record: type[T]) -> type[T]:
    """Writes the options into the docstring of their class, as `Attributes`."""
    lines = [
        textwrap.fill(f"{name}: {option.help}.", 120, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, _, _, option in options_of(record)
    ]
    summary, raises, errors = inspect.cleandoc(record.__doc__ or "").partition("Raises:")
    record.__doc__ = "\n".join([summary.rstrip(), "", "Attributes:", *lines, "", raises + errors]).rstrip() + "\n"
    return record
