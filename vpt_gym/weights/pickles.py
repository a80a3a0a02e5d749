"""Pickles from strangers, read and never run: plain data, and whatever else the caller knows how to build.

A pickle is a program for a small machine. Python's own machine fetches classes and calls them; this one has no way to do
either. It knows constants, containers and the memo, and hands every name of a class or a function to the caller's table. Its
work and memory are bounded by the length of the program, and what comes out is bounded in depth and size.
"""

from __future__ import annotations

import io
import itertools
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vpt_gym.errors import WeightsError

__all__ = ["Build", "DamagedPickleError", "RefusedGlobalError", "ordered_dict", "plain_data", "read_pickle"]

_MOST_OPCODES = 250_000
_MOST_BITS = 128
_MOST_DEPTH = 64
_MOST_PARTS = 2_000_000
"""Parts of a value, each counted as often as it is reached: a list that holds another twice, and so on, has 2^n of them."""

_SKIPPED = frozenset({"PROTO", "FRAME", "STOP"})
_PUSHED = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    }
)
"""Opcodes whose argument is the value."""


class DamagedPickleError(Exception):
    """The bytes are no pickle, only part of one, or one beyond all bounds; the message is a phrase that says which."""


class RefusedGlobalError(Exception):
    """The pickle names a class or a function that the caller's table does not have; the message is its name."""


class Build(NamedTuple):
    """What a known function makes of its arguments.

    Attributes:
        make: takes the tuple of arguments from the pickle; raises `DamagedPickleError` where they do not fit.
    """

    make: Callable[[tuple[Any, ...]], object]


def read_pickle(
    file: io.BytesIO,
    known: Mapping[str, object],
    persistent: Callable[[object], object] | None = None,
) -> object:
    """Read the pickle that begins at the file's position, and leave the file behind its end.

    Args:
        file: the bytes.
        known: what stands for a global, by `module.name`; those that the pickle may call are a `Build`.
        persistent: what stands for a persistent id; None where there are none.

    Returns:
        None, bools, numbers, strings, bytes, lists, tuples, dicts and sets of them, and what `known` and `persistent` gave.

    Raises:
        DamagedPickleError: it is damaged or beyond the bounds, or gives a key of a dict twice.
        RefusedGlobalError: it names a global that is not in `known`.
    """
    value = _Machine(known, persistent).run(file)
    _check_bounds(value)
    return value


def ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """What `collections.OrderedDict` is called with in pickles: nothing, or a list of pairs."""
    made: dict[Any, Any] = {}
    if not arguments:
        return made
    if len(arguments) != 1 or not isinstance(arguments[0], (list, tuple)):
        raise DamagedPickleError("an OrderedDict is made of no list of pairs")
    for pair in arguments[0]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DamagedPickleError("an OrderedDict is made of no list of pairs")
        _set_item(made, *pair)
    return made


def plain_data(path: Path, content: bytes) -> object:
    """Unpickle dicts, lists, strings and numbers; anything that would name a class or a function is refused.

    Args:
        path: where the bytes come from, for messages.
        content: a pickle of any protocol.

    Raises:
        WeightsError: the pickle names a global other than `collections.OrderedDict` (the message tells which), or is damaged.
    """
    try:
        return read_pickle(io.BytesIO(content), {"collections.OrderedDict": Build(ordered_dict)})
    except RefusedGlobalError as refusal:
        raise WeightsError(
            f"{path} is refused: its pickle asks for {refusal}, which is not plain data and could run code. "
            "Load the .weights without it, since the architecture is also read from the tensors: move "
            "this file aside."
        ) from None
    except DamagedPickleError as error:
        raise WeightsError(
            f"{path} is damaged or no pickle ({error}): get it again from its source, or move it aside, "
            "since the architecture is also read from the tensors."
        ) from error


_MARK = object()


class _Machine:
    """The stack and the memo. Every opcode pushes at most one value, so that nothing can outgrow the program."""

    def __init__(self, known: Mapping[str, object], persistent: Callable[[object], object] | None) -> None:
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> object:
        for name, argument in _opcodes(file):
            if name in _PUSHED:
                if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                    raise DamagedPickleError(f"it holds a whole number of {argument.bit_length():,} bits")
                self._stack.append(argument)
            elif name in _OPCODES:
                _OPCODES[name](self, argument)
            elif name == "INST":
                raise RefusedGlobalError(str(argument).replace(" ", "."))
            elif name not in _SKIPPED:
                raise DamagedPickleError(f"it uses the opcode {name}, which plain data and tensors need not")
        return self._pop()

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise DamagedPickleError("its stack is empty where a value is needed")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise DamagedPickleError(f"it fills what is no {kind.__name__}")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                found = self._stack[place + 1 :]
                del self._stack[place:]
                return found
        raise DamagedPickleError("its stack has no mark where one is needed")

    def _tuple(self, length: int) -> None:
        found = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(found)))

    def _dict(self) -> None:
        found = self._marked()
        self._push({})
        self._fill(found)

    def _fill(self, found: list[Any]) -> None:
        target = self._top(dict)
        if len(found) % 2:
            raise DamagedPickleError("it gives a key without a value")
        for key, value in zip(found[::2], found[1::2], strict=True):
            _set_item(target, key, value)

    def _add_items(self) -> None:
        found = self._marked()
        target = self._top(set)
        for value in found:
            _check_key(value)
            target.add(value)

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._fill([key, value])

    def _append_one(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _append_all(self) -> None:
        found = self._marked()
        self._top(list).extend(found)

    def _frozen(self) -> None:
        found = self._marked()
        for value in found:
            _check_key(value)
        self._push(frozenset(found))

    def _put(self, index: int) -> None:
        # A dict: a list as long as an index says would be made by a few bytes.
        self._memo[index] = self._top(object)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise DamagedPickleError(f"it takes up a value {index} that it never laid down")
        self._push(self._memo[index])

    def _pop_one(self) -> None:
        if not self._stack:
            raise DamagedPickleError("its stack is empty where a value is needed")
        self._stack.pop()

    def _global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedPickleError("it names a global by something else than strings")
        asked = f"{module}.{name}"
        if asked not in self._known:
            raise RefusedGlobalError(asked)
        self._push(self._known[asked])

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Build) or not isinstance(arguments, tuple):
            raise DamagedPickleError("it calls what is no function")
        self._push(function.make(arguments))

    def _persist(self) -> None:
        identity = self._pop()
        if self._persistent is None:
            raise DamagedPickleError("it has persistent ids, which plain data has not")
        self._push(self._persistent(identity))


_OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "MARK": lambda machine, _: machine._push(_MARK),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_SET": lambda machine, _: machine._push(set()),
    "LIST": lambda machine, _: machine._push(machine._marked()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._marked())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "DICT": lambda machine, _: machine._dict(),
    "FROZENSET": lambda machine, _: machine._frozen(),
    "APPEND": lambda machine, _: machine._append_one(),
    "APPENDS": lambda machine, _: machine._append_all(),
    "SETITEM": lambda machine, _: machine._set_one(),
    "SETITEMS": lambda machine, _: machine._fill(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._add_items(),
    "PUT": lambda machine, index: machine._put(index),
    "BINPUT": lambda machine, index: machine._put(index),
    "LONG_BINPUT": lambda machine, index: machine._put(index),
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    "GET": lambda machine, index: machine._get(index),
    "BINGET": lambda machine, index: machine._get(index),
    "LONG_BINGET": lambda machine, index: machine._get(index),
    "POP": lambda machine, _: machine._pop_one(),
    "POP_MARK": lambda machine, _: machine._marked().clear(),
    "DUP": lambda machine, _: machine._push(machine._top(object)),
    "GLOBAL": lambda machine, names: machine._global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._stack_global(),
    "REDUCE": lambda machine, _: machine._reduce(),
    # The state of an object, such as an OrderedDict's attributes, changes no value: it is left out.
    "BUILD": lambda machine, _: (machine._pop(), None)[1],
    "BINPERSID": lambda machine, _: machine._persist(),
}


def _opcodes(file: io.BytesIO) -> list[tuple[str, Any]]:
    """Name and argument of every opcode, up to the STOP at the end."""
    try:
        program = [
            (opcode.name, argument)
            for opcode, argument, _ in itertools.islice(pickletools.genops(file), _MOST_OPCODES + 1)
        ]
    # What pickletools raises on bytes that are no pickle: an argument cut short, or of digits or letters that are none.
    except (ValueError, struct.error, OverflowError) as error:
        raise DamagedPickleError((str(error).splitlines() or [type(error).__name__])[0][:100]) from error
    if len(program) > _MOST_OPCODES:
        raise DamagedPickleError(f"it has more than {_MOST_OPCODES:,} opcodes")
    return program


def _set_item(target: dict[Any, Any], key: object, value: object) -> None:
    _check_key(key)
    if key in target:
        raise DamagedPickleError(f"it gives {str(key)[:100]!r} twice, and it cannot be known which of the two is meant")
    target[key] = value


def _check_key(key: object) -> None:
    # A tuple's hash looks at all that is in it, as often as it is in it: two to the power of its depth, if it is made so.
    scalars = key if isinstance(key, tuple) and len(key) <= _MOST_DEPTH else (key,)
    if not all(scalar is None or isinstance(scalar, (bool, int, float, str, bytes)) for scalar in scalars):
        raise DamagedPickleError(f"a key of a dict or a set is {type(key).__name__} and no number or string")


def _check_bounds(value: object) -> None:
    """Refuse what is nested too deep, contains itself, or unfolds to more parts than any description or state has."""
    measured: dict[int, tuple[int, int]] = {}
    waiting: list[tuple[object, bool]] = [(value, False)]
    entered: set[int] = set()
    while waiting:
        part, seen_inside = waiting.pop()
        if id(part) in measured or not isinstance(part, (list, tuple, dict)):
            continue
        inside = [*part.values()] if isinstance(part, dict) else [*part]
        if not seen_inside:
            if id(part) in entered:
                raise DamagedPickleError("it holds something that contains itself")
            entered.add(id(part))
            waiting.append((part, True))
            waiting.extend((child, False) for child in inside if isinstance(child, (list, tuple, dict)))
            continue
        depths = [measured.get(id(child), (0, 1)) for child in inside]
        depth, parts = 1 + max((d for d, _ in depths), default=0), 1 + sum(n for _, n in depths)
        if depth > _MOST_DEPTH or parts > _MOST_PARTS:
            raise DamagedPickleError(
                f"it is nested more than {_MOST_DEPTH} deep"
                if depth > _MOST_DEPTH
                else f"it unfolds to more than {_MOST_PARTS:,} parts"
            )
        entered.discard(id(part))
        measured[id(part)] = (depth, parts)
