"""The ways in which attack.py damages a file: its bytes, and what they say as JSON, as a pickle or as a zip archive."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
WRAPPERS = ("module.", "_orig_mod.", "policy.", "model.", "mine_policy.", "teacher.")


Mutation = Callable[[bytes, random.Random], bytes]


# Bytes of any kind.


def bits_flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def number_written(content: bytes, rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    place = rng.randrange(len(content))
    number = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
    return content[:place] + number + content[place + width :]


def cut_short(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def bytes_lost(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 4, 64, 1000)) :]


def bytes_added(content: bytes, rng: random.Random) -> bytes:
    start = rng.choice((0, len(content), rng.randrange(len(content))))
    return content[:start] + rng.randbytes(rng.choice((1, 4, 64, 1000))) + content[start:]


def zeros_written(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    length = min(rng.choice((1, 16, 512, 4096)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def parts_exchanged(content: bytes, rng: random.Random) -> bytes:
    first, second = sorted(rng.sample(range(len(content) + 1), 2))
    return content[second:] + content[first:second] + content[:first]


OF_BYTES: list[Mutation] = [
    bits_flipped,
    number_written,
    cut_short,
    zeros_written,
    bytes_lost,
    bytes_added,
    parts_exchanged,
]


# JSON, and the header of safetensors.


def value_changed(content: bytes, rng: random.Random) -> bytes:
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError):
        return content
    holder, key = {"": data}, ""
    for _ in range(rng.choice((1, 2, 2, 3, 4))):
        inner = holder[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        holder, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    value = rng.choice(
        (*NUMBERS, 10**400, 1e300, float("nan"), None, True, "", "x" * 3000, [], {}, [[[3]]], "../x.bin")
    )
    if rng.random() < 0.2 and isinstance(holder, dict):
        holder.pop(key)
    elif rng.random() < 0.2 and isinstance(holder, dict) and key:
        holder[rng.choice(WRAPPERS) + str(key)] = holder.pop(key)
    else:
        holder[key] = value
    return json.dumps(data).encode()


def key_twice(content: bytes, rng: random.Random) -> bytes:
    place = content.find(b'"', rng.randrange(len(content)))
    end = content.find(b",", place)
    return content[:end] + b", " + content[place:end] + content[end:] if 0 <= place < end else content


def nested(content: bytes, rng: random.Random) -> bytes:
    place = content.find(b": ", rng.randrange(len(content)))
    depth = rng.choice((10, 100, 1000, 100_000))
    return content[: place + 2] + b"[" * depth + b"]" * depth + content[place + 2 :]


def digits_added(content: bytes, rng: random.Random) -> bytes:
    place = rng.choice([place for place, byte in enumerate(content) if byte in b"0123456789"] or [0])
    return content[:place] + b"9" * rng.choice((3, 30, 400, 5000, 100_000)) + content[place:]


_OF_JSON: list[Mutation] = [value_changed, value_changed, value_changed, key_twice, nested, digits_added]


def header_changed(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = rng.choice(_OF_JSON)(content[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


# Pickles, and torch's row of them.


def _steps(content: bytes) -> list[int]:
    """Where each opcode of the first pickle begins, and where the last one ends."""
    places: list[int] = []
    with contextlib.suppress(ValueError, struct.error):
        places.extend(place for _, _, place in pickletools.genops(content) if place is not None)
    return [*places, len(content)] if places else [0, len(content)]


def opcode_lost(content: bytes, rng: random.Random) -> bytes:
    places = _steps(content)
    index = rng.randrange(len(places) - 1)
    return content[: places[index]] + content[places[index + 1] :]


def opcode_twice(content: bytes, rng: random.Random) -> bytes:
    places = _steps(content)
    index = rng.randrange(len(places) - 1)
    return content[: places[index + 1]] + content[places[index] : places[index + 1]] + content[places[index + 1] :]


def opcode_exchanged(content: bytes, rng: random.Random) -> bytes:
    place = rng.choice(_steps(content)[:-1])
    return content[:place] + rng.choice(pickletools.opcodes).code.encode("latin-1") + content[place + 1 :]


def opcodes_moved(content: bytes, rng: random.Random) -> bytes:
    places = _steps(content)
    one, two = (rng.randrange(len(places) - 1) for _ in range(2))
    taken = content[places[one] : places[one + 1]]
    return content[: places[two]] + taken + content[places[two] :]


def argument_changed(content: bytes, rng: random.Random) -> bytes:
    places = _steps(content)
    index = rng.randrange(len(places) - 1)
    start, end = places[index] + 1, places[index + 1]
    if start == end:
        return content
    number = rng.choice(NUMBERS) % 2 ** (8 * (end - start))
    return content[:start] + number.to_bytes(end - start, "little") + content[end:]


def bomb_planted(content: bytes, rng: random.Random) -> bytes:
    double = b"".join(b"h%ch%c%sq%c" % (k, k, b"\x86", k + 1) for k in range(60))
    bomb = rng.choice(
        (
            b"Nr" + struct.pack("<I", 2**28) + b"0",
            b")" + b"\x85" * rng.choice((100, 1000, 200_000)) + b"0",
            b"N" + b"](" * 50_000 + b"e" * 50_000 + b"0",
            b")q\x00" + double + b"0",
            b"}" + b")q\x00" + double + b"Ns0",
            b"}" + b")" + b"\x85" * 100_000 + b"Ns0",
            b"\x8b" + struct.pack("<I", 40_000) + b"\x7f" * 40_000 + b"0",
            b"L" + b"9" * rng.choice((50, 5000)) + b"L\n0",
            b"X" + struct.pack("<I", 2**31 - 1),
            b"\x8d" + struct.pack("<Q", 2**62),
            b"cos\nsystem\n(X\x04\x00\x00\x00truetR0",
            b"\x8c\x02os\x8c\x06system\x93)R0",
            b"\x82\x01",
            b"P1\n",
            b"(" * 100_000,
        )
    )
    place = rng.choice(_steps(content)[:-1])
    return content[:place] + bomb + content[place:]


_OF_PICKLES: list[Mutation] = [
    opcode_lost,
    opcode_twice,
    opcode_exchanged,
    opcodes_moved,
    argument_changed,
    bomb_planted,
]


def row_changed(content: bytes, rng: random.Random) -> bytes:
    """Damage one of the row's pickles, or the length of a storage behind them."""
    pickles, file = [], io.BytesIO(content)
    try:
        for _ in range(5):
            start = file.tell()
            for _step in pickletools.genops(file):
                pass
            pickles.append((start, file.tell()))
    except (ValueError, struct.error):
        return content
    index = rng.randrange(6)
    if index == 5:
        place = pickles[-1][1]
        return content[:place] + struct.pack("<q", rng.choice(NUMBERS) % 2**63) + content[place + 8 :]
    start, end = pickles[index]
    return content[:start] + rng.choice(_OF_PICKLES)(content[start:end], rng) + content[end:]


# Zip archives, written anew with checksums that are right.


def _unzipped(content: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, RuntimeError):
        return []


def _zipped(records: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, record in records:
            archive.writestr(zipfile.ZipInfo(name), record, method)
    return file.getvalue()


def _record_changed(
    content: bytes, rng: random.Random, change: Callable[[str, bytes], list[tuple[str, bytes]]]
) -> bytes:
    records = _unzipped(content)
    if not records:
        return content
    index = rng.randrange(len(records))
    return _zipped([*records[:index], *change(*records[index]), *records[index + 1 :]])


def record_shorter(content: bytes, rng: random.Random) -> bytes:
    share = rng.choice((0, 0.5, 0.99))
    return _record_changed(content, rng, lambda name, record: [(name, record[: int(len(record) * share)])])


def record_longer(content: bytes, rng: random.Random) -> bytes:
    return _record_changed(
        content, rng, lambda name, record: [(name, record + rng.choice((b"x", record, bytes(4096))))]
    )


def record_lost(content: bytes, rng: random.Random) -> bytes:
    return _record_changed(content, rng, lambda _name, _record: [])


def record_twice(content: bytes, rng: random.Random) -> bytes:
    other = rng.choice((lambda record: record, lambda record: bytes(len(record)), lambda _record: b""))
    return _record_changed(content, rng, lambda name, record: [(name, record), (name, other(record))])


def record_renamed(content: bytes, rng: random.Random) -> bytes:
    names = ("other/data.pkl", "x/data/0", "x/data/1", "x/data/../0", "data.pkl", "x/constants.pkl", "x/byteorder", "")
    return _record_changed(content, rng, lambda _name, record: [(rng.choice(names), record)])


def record_damaged(content: bytes, rng: random.Random) -> bytes:
    return _record_changed(
        content, rng, lambda name, record: [(name, rng.choice(OF_BYTES)(record, rng) if record else record)]
    )


def program_changed(content: bytes, rng: random.Random) -> bytes:
    records = _unzipped(content)
    mutation = rng.choice(_OF_PICKLES)
    return _zipped([(name, mutation(record, rng) if name.endswith("data.pkl") else record) for name, record in records])


def compressed(content: bytes, rng: random.Random) -> bytes:
    return _zipped(_unzipped(content), rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))


def directory_changed(content: bytes, rng: random.Random) -> bytes:
    """A number among the last bytes, where the directory and its end are."""
    place = len(content) - rng.randrange(1, min(1500, len(content)))
    width = rng.choice((1, 2, 4))
    number = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
    return content[:place] + number + content[place + width :]


_OF_ZIPS: list[Mutation] = [
    record_shorter,
    record_longer,
    record_lost,
    record_twice,
    record_renamed,
    record_damaged,
    program_changed,
    program_changed,
    program_changed,
    compressed,
    directory_changed,
    directory_changed,
]


def of_structure(victim: Path, content: bytes) -> list[Mutation]:
    """The mutations that know what such a file is made of."""
    if victim.suffix == ".json":
        return _OF_JSON
    if victim.suffix == ".safetensors":
        return [header_changed, *OF_BYTES[:4]]
    if victim.suffix == ".model":
        return _OF_PICKLES
    return _OF_ZIPS if content.startswith(b"PK") else [row_changed, *_OF_PICKLES]
