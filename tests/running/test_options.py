from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from vpt_gym.errors import OptionError
from vpt_gym.running import options
from vpt_gym.running.options import (
    COUNT,
    FILM,
    FLAG,
    FRACTION,
    OBJECT,
    PATH,
    POSITIVE,
    TEXT,
    TEXTS,
    WHOLE,
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
    name: Annotated[str | None, Option("of the walk")] = None
    stops: Annotated[tuple[str, ...], Option("on the way", TEXTS)] = ()
    load: Annotated[dict[str, Any], Option("to carry", OBJECT)] = field(default_factory=dict)
    unseen: int = 3

    def __post_init__(self) -> None:
        check_options(self)


def test_options_are_what_the_fields_declare() -> None:
    found = options_of(Walk)
    assert [name for name, _, _ in found] == ["to", "steps", "name", "stops", "load"]
    assert [default for _, _, default in found] == [MISSING, 10, None, (), {}]
    assert [option.kind for _, option, _ in found] == [TEXT, COUNT, TEXT, TEXTS, OBJECT]


def test_the_docstring_lists_them_before_its_errors() -> None:
    assert Walk.__doc__ is not None
    assert Walk.__doc__.splitlines() == [
        *("A walk.", "", "Attributes:", "    to: the place.", "    steps: how far.", "    name: of the walk."),
        *("    stops: on the way.", "    load: to carry.", "", "Raises:", "    OptionError: a value does not fit."),
    ]


def test_values_are_checked_and_kept_in_one_form() -> None:
    assert Walk("there", stops=["a", "b"]).stops == ("a", "b")  # type: ignore[arg-type]
    assert Walk("there", name=None).name is None
    with pytest.raises(OptionError, match=r"^to must be a text, not None"):
        Walk(None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"^steps must be a whole number of 1 or more, .* not True"):
        Walk("there", steps=True)


GOOD: list[tuple[Kind, str, Any]] = [
    (COUNT, "24_000", 24000),
    (COUNT, "1e5", 100_000),
    (WHOLE, "-3", -3),
    (POSITIVE, "3e-4", 3e-4),
    (FRACTION, "1", 1),
    (FRACTION, "0", 0),
    (WIDTHS, "64,32", (64, 32)),
    (WIDTHS, "none", ()),
    (FILM, "none", "none"),
    (FILM, "a/b.mp4", Path("a/b.mp4")),
    (PATH, "a", Path("a")),
    (one_of(("gif", "mp4")), "gif", "gif"),
]

BAD: list[tuple[Kind, str]] = [
    *((COUNT, text) for text in ("0", "-1", "1.5", "inf", "nan", "1e999", "many", "")),
    *((WHOLE, text) for text in ("0.5", "x", "inf")),
    *((POSITIVE, text) for text in ("0", "-1", "inf", "nan", "x")),
    *((FRACTION, text) for text in ("-0.1", "1.1", "nan", "x")),
    *((WIDTHS, text) for text in ("", "0", "64,", "64,x", "64,-1")),
    *((FILM, text) for text in ("film.avi", "gif", "")),
    (one_of(("gif", "mp4")), "avi"),
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


@pytest.mark.parametrize(("kind", "value"), [(FLAG, 1), (OBJECT, {"a": object()}), (OBJECT, [1]), (TEXTS, "ab")])
def test_a_value_that_does_not_fit_is_refused(kind: Kind, value: object) -> None:
    with pytest.raises(OptionError, match=r"^it must be "):
        kind.check("it", value)


def test_every_kind_is_tried_here() -> None:
    kinds = {name for name in options.__all__ if isinstance(getattr(options, name), Kind)}
    assert kinds == {name for name, value in globals().items() if isinstance(value, Kind)}
