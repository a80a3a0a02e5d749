from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from vpt_gym.errors import OptionError
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
    options_of,
)


@documented
@dataclass(frozen=True)
class Walk:
    """A walk.

    Raises:
        OptionError: a value does not fit.
    """

    to: Annotated[str, Option("the place")]
    steps: Annotated[int, Option("how far", COUNT)] = 10
    first: Annotated[int, Option("number")] = -1
    slow: Annotated[bool, Option("not fast")] = False
    log: Annotated[Path | None, Option("a diary")] = None
    name: Annotated[str | None, Option("of the walk")] = None
    stops: Annotated[tuple[str, ...], Option("on the way")] = ()
    load: Annotated[dict[str, Any], Option("to carry")] = field(default_factory=dict)
    unseen: int = 3

    def __post_init__(self) -> None:
        check_options(self)


def test_options_are_what_the_fields_declare() -> None:
    found = options_of(Walk)
    assert [(name, kind, default) for name, kind, default, _ in found] == [
        *(("to", str, MISSING), ("steps", int, 10), ("first", int, -1), ("slow", bool, False), ("log", Path, None)),
        *(("name", str, None), ("stops", tuple, ()), ("load", dict, {})),
    ]
    assert found[1].kind is COUNT
    assert found[2].kind.words == "a whole number"


def test_the_docstring_lists_them_before_its_errors() -> None:
    assert Walk.__doc__ is not None
    assert Walk.__doc__.splitlines() == [
        *("A walk.", "", "Attributes:", "    to: the place.", "    steps: how far.", "    first: number."),
        *("    slow: not fast.", "    log: a diary.", "    name: of the walk.", "    stops: on the way."),
        *("    load: to carry.", "", "Raises:", "    OptionError: a value does not fit."),
    ]


def test_values_are_kept_in_one_form() -> None:
    walk = Walk("there", stops=["a", "b"], log="a/b", first=np.int64(3))  # type: ignore[arg-type]
    assert (walk.stops, walk.log, walk.name) == (("a", "b"), Path("a/b"), None)
    assert type(walk.first) is int


GOOD: list[tuple[Kind, str, Any]] = [
    (COUNT, "24_000", 24000),
    (COUNT, "1e5", 100_000),
    (POSITIVE, "3e-4", 3e-4),
    (FRACTION, "1", 1),
    (FRACTION, "0", 0),
    (WIDTHS, "64,32", (64, 32)),
    (WIDTHS, "none", ()),
    (FILM, "none", "none"),
    (FILM, "a/b.mp4", Path("a/b.mp4")),
    (one_of("gif", "mp4"), "gif", "gif"),
]

BAD: list[tuple[Kind, str]] = [
    *((COUNT, text) for text in ("0", "-1", "1.5", "inf", "nan", "1e999", "many", "")),
    *((POSITIVE, text) for text in ("0", "-1", "inf", "nan", "x")),
    *((FRACTION, text) for text in ("-0.1", "1.1", "nan", "x")),
    *((WIDTHS, text) for text in ("", "0", "64,", "64,x", "64,-1")),
    *((FILM, text) for text in ("film.avi", "gif", "")),
    (one_of("gif", "mp4"), "avi"),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_text_becomes_a_value(kind: Kind, text: str, value: object) -> None:
    kept = kind.check("it", kind.read(text))
    assert kept == value
    assert type(kept) is type(value)


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_a_text_that_does_not_fit_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(OptionError, match=r"^it must be "):
        kind.check("it", kind.read(text))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"to": None}, "to must be a text, not None"),
        ({"steps": True}, "steps must be a whole number of 1 or more, such as 24000 or 1e5, not True"),
        ({"first": 0.5}, "first must be a whole number, not 0.5"),
        ({"slow": 1}, "slow must be true or false, not 1"),
        ({"log": 3}, "log must be a path, not 3"),
        ({"name": 3}, "name must be a text, not 3"),
        ({"stops": "ab"}, "stops must be a list of texts, not 'ab'"),
        ({"stops": [1]}, "stops must be a list of texts"),
        ({"load": [1]}, "load must be an object of JSON values"),
        ({"load": {"a": object()}}, "load must be an object of JSON values"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(sentence)}"):
        Walk(**{"to": "there", **values})
