"""Reading what documentation promises: fenced blocks, commands, links and anchors of a Markdown file."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

__all__ = ["Block", "anchors", "blocks", "commands", "links"]

_OPEN = re.compile(r"^(?P<indent> *)```(?P<language>\S*)")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.*) -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word behind the opening fence, or "".
        line: number of its first line of content, from 1.
        text: its content, without the fence's indentation.
        not_run: the reason from a comment `<!-- not run: needs ... -->` on the line above the fence, or None.
    """

    language: str
    line: int
    text: str
    not_run: str | None


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a file.

    Raises:
        ValueError: a fence is never closed, or a `not run` comment has no python block under it.
    """
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    reason: str | None = None
    number = 0
    while number < len(lines):
        opening = _OPEN.match(lines[number])
        if opening is None:
            if reason is not None:
                raise ValueError(f"{path.name}:{number}: a `not run` comment belongs directly above a python block.")
            marker = _NOT_RUN.match(lines[number].strip())
            reason = marker["reason"] if marker else None
            number += 1
            continue
        if reason is not None and opening["language"] != "python":
            raise ValueError(f"{path.name}:{number}: a `not run` comment belongs directly above a python block.")
        indent = opening["indent"]
        content: list[str] = []
        start = number + 1
        while (number := number + 1) < len(lines) and lines[number].rstrip() != f"{indent}```":
            content.append(lines[number].removeprefix(indent))
        if number == len(lines):
            raise ValueError(f"{path.name}:{start}: this fence is never closed.")
        found.append(Block(opening["language"], start + 1, "\n".join(content) + "\n", reason))
        reason = None
        number += 1
    if reason is not None:
        raise ValueError(f"{path.name}:{number}: a `not run` comment belongs directly above a python block.")
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block as lists of words: continued lines joined, comments and assignments dropped."""
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.wordchars += "@:,?$[]{}!%^()<>"
        for separator, words in groupby(lexer, key=lambda word: set(word) <= set("&|;")):
            if separator:
                continue
            rest = list(words)
            while rest and re.match(r"^\w+=", rest[0]):
                rest.pop(0)
            if rest:
                found.append(rest)
    return found


def links(path: Path) -> list[str]:
    """Targets of the links and images outside fenced blocks and inline code."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", _prose(path)))


def anchors(path: Path) -> set[str]:
    """What `#...` can point to: GitHub's name of every heading."""
    headings = re.findall(r"^#+ (.+)$", _prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _prose(path: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
