"""JSON from strangers: bounded in size, depth and digits, and no key twice."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["NotJSONError", "parse_json"]

_DEEPEST = 64
_MOST_DIGITS = 40
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class NotJSONError(Exception):
    """The text is no JSON, or none within the bounds; the message is a phrase that says why."""


def parse_json(content: bytes) -> Any:
    """Parse UTF-8 text as JSON.

    Raises:
        NotJSONError: it is none, is nested more than 64 deep, has a whole number of more than 40 digits, or gives a key twice.
    """
    try:
        text = content.decode("utf-8-sig")
        depth = 0
        for found in _BRACKET.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if depth > _DEEPEST:
                raise NotJSONError(f"it is nested more than {_DEEPEST} deep")
        return json.loads(text, parse_int=_whole, object_pairs_hook=_once)
    except ValueError as error:
        raise NotJSONError(str(error).splitlines()[0]) from error


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise NotJSONError(f"it holds a whole number of {len(digits):,} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise NotJSONError(f"it gives {twice[:100]!r} twice, and it cannot be known which of the two is meant")
    return made
