"""The zip archives that torch.save writes: where each record lies, and that every byte of it is what the archive says.

Read strictly. The zip format leaves room for archives that two readers understand differently (other bytes before or after,
records that overlap, two of one name, two directories), and torch.save uses none of it. Neither torch nor Python's zipfile
looks at all of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

__all__ = ["DamagedArchiveError", "Record", "check_records", "read_directory"]

_MOST_RECORDS = 100_000
_LARGEST_DIRECTORY = 2**25
_CHUNK = 2**20
_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_SATURATED = 0xFFFFFFFF
_ENCRYPTED, _SIZES_BEHIND = 1, 8
"""Bits of a record's flags. torch writes sizes and checksum behind each record, and zeros in the header before it."""
_ZIP64 = 1
"""Number of the extra field that holds what does not fit into 32 bits."""


class DamagedArchiveError(Exception):
    """The archive is not whole, or not as torch.save writes it; the message is a phrase that says where."""


class Record(NamedTuple):
    """A record that lies in the archive as it is.

    Attributes:
        start: where in the file its first byte is.
        size: how many bytes it has.
        checksum: CRC-32 of them.
    """

    start: int
    size: int
    checksum: int


class _Entry(NamedTuple):
    name: bytes
    flags: int
    checksum: int
    size: int
    header: int


def read_directory(file: BinaryIO, length: int) -> dict[str, Record]:
    """Where every record is.

    Args:
        file: the archive, opened for reading bytes.
        length: how many bytes it has.

    Raises:
        DamagedArchiveError: the directory is missing, damaged, or does not fit the records.
    """
    start, size, count = _directory(file, length)
    entries = list(_entries(_read(file, start, size, "its directory"), count))
    records: dict[str, Record] = {}
    # In the order in which they lie, so that each one's end can be held against the next one's beginning.
    entries.sort(key=lambda entry: entry.header)
    if entries and entries[0].header != 0:
        raise DamagedArchiveError("other bytes lie before its first record")
    if entries and entries[-1].header >= start:
        raise DamagedArchiveError("its directory lists a record behind itself")
    ends = [entry.header for entry in entries[1:]] + [start]
    for entry, end in zip(entries, ends, strict=True):
        name = _name(entry.name)
        if name in records:
            raise DamagedArchiveError(f"it has two records {name!r}, and it cannot be known which of them is meant")
        records[name] = _record(file, entry, name, end)
    return records


def check_records(file: BinaryIO, records: Mapping[str, Record]) -> None:
    """Read every record once and compare its checksum.

    `torch.serialization.set_crc32_options(False)` writes archives without checksums; all of them are 0 then, and only the
    sizes can be checked.

    Raises:
        DamagedArchiveError: a record is not what was written.
    """
    if not any(record.checksum for record in records.values()):
        return
    for name, record in records.items():
        checksum, left = 0, record.size
        file.seek(record.start)
        while left:
            part = file.read(min(left, _CHUNK))
            if not part:
                raise DamagedArchiveError(f"its record {name!r} is cut off")
            checksum = zlib.crc32(part, checksum)
            left -= len(part)
        if checksum != record.checksum:
            raise DamagedArchiveError(f"the checksum of its record {name!r} is wrong")


def _directory(file: BinaryIO, length: int) -> tuple[int, int, int]:
    """Start, size and number of entries of the directory, which lies right before the archive's end."""
    end = length - _END.size
    if end < 0:
        raise DamagedArchiveError("its directory is missing")
    mark, disk, first_disk, here, count, size, start, comment = _END.unpack(_read(file, end, _END.size, "its end"))
    if mark != b"PK\x05\x06" or comment or disk or first_disk or here != count:
        raise DamagedArchiveError("it does not end in its directory")
    locator = end - _LOCATOR64.size
    if locator >= 0:
        found, _, end64, _ = _LOCATOR64.unpack(_read(file, locator, _LOCATOR64.size, "its end"))
        if found == b"PK\x06\x07":
            if end64 + _END64.size != locator:
                raise DamagedArchiveError("it does not end in its directory")
            mark, _, _, _, _, _, here, count64, size64, start64 = _END64.unpack(
                _read(file, end64, _END64.size, "its end")
            )
            fits = all(
                short in (saturated, long)
                for short, long, saturated in (
                    (count, count64, 0xFFFF),
                    (size, size64, _SATURATED),
                    (start, start64, _SATURATED),
                )
            )
            if mark != b"PK\x06\x06" or here != count64 or not fits:
                raise DamagedArchiveError("the two ends of its directory disagree")
            count, size, start, end = count64, size64, start64, end64
    if start + size != end:
        raise DamagedArchiveError("its directory is not where its end says")
    if count > _MOST_RECORDS or size > _LARGEST_DIRECTORY:
        raise DamagedArchiveError(f"its directory lists {count:,} records in {size:,} bytes, more than any network has")
    return start, size, count


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    place = 0
    for _ in range(count):
        if place + _CENTRAL.size > len(directory):
            raise DamagedArchiveError("its directory is cut off")
        fields = _CENTRAL.unpack_from(directory, place)
        mark, _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length, comment, disk = fields[:14]
        header = fields[16]
        place += _CENTRAL.size
        name = directory[place : place + name_length]
        extra = directory[place + name_length : place + name_length + extra_length]
        place += name_length + extra_length + comment
        if mark != b"PK\x01\x02" or place > len(directory) or disk:
            raise DamagedArchiveError("its directory is damaged")
        if flags & _ENCRYPTED or method:
            raise DamagedArchiveError(
                f"its record {_name(name)!r} is {'encrypted' if flags & _ENCRYPTED else 'compressed'}, which torch.save "
                "never does; unpack it and pack it anew by torch.load and torch.save"
            )
        size, packed, header = _wide(extra, size, packed, header)
        if size != packed:
            raise DamagedArchiveError(f"its record {_name(name)!r} has two sizes")
        yield _Entry(name, flags, checksum, size, header)
    if place != len(directory):
        raise DamagedArchiveError("its directory is longer than its entries")


def _wide(extra: bytes, *values: int) -> tuple[int, ...]:
    """The values, with those that are saturated taken from the extra field."""
    saturated = sum(value == _SATURATED for value in values)
    place = 0
    wide: list[int] = []
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == _ZIP64 and not wide:
            if length < 8 * saturated or place + 4 + length > len(extra):
                raise DamagedArchiveError("the sizes in its directory are cut off")
            wide = list(struct.unpack_from(f"<{saturated}Q", extra, place + 4))
        place += 4 + length
    if saturated and not wide:
        raise DamagedArchiveError("the sizes in its directory are missing")
    return tuple(wide.pop(0) if value == _SATURATED else value for value in values)


def _record(file: BinaryIO, entry: _Entry, name: str, end: int) -> Record:
    """The record's place, when the header before it agrees with the directory and it ends before `end`."""
    header = _read(file, entry.header, _LOCAL.size, f"the header of its record {name!r}")
    mark, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    start = entry.header + _LOCAL.size + name_length + extra_length
    written = _read(file, entry.header + _LOCAL.size, name_length, f"the header of its record {name!r}")
    # With sizes behind the record, the header before it has zeros.
    agrees = bool(flags & _SIZES_BEHIND) or (
        checksum == entry.checksum and all(value in (entry.size, _SATURATED) for value in (packed, size))
    )
    if mark != b"PK\x03\x04" or written != entry.name or flags != entry.flags or method or not agrees:
        raise DamagedArchiveError(f"the header of its record {name!r} does not agree with its directory")
    if start + entry.size > end:
        raise DamagedArchiveError(f"its record {name!r} reaches into what comes behind it")
    return Record(start, entry.size, entry.checksum)


def _name(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DamagedArchiveError("the name of a record is no text") from None


def _read(file: BinaryIO, start: int, size: int, what: str) -> bytes:
    file.seek(start)
    found = file.read(size)
    if len(found) != size:
        raise DamagedArchiveError(f"{what} is cut off")
    return found
