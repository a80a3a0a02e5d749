"""No file that is half written, and none that two commands write at once."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpt_gym.errors import OptionError, VPTGymError

try:
    import fcntl
except ImportError:  # not a POSIX system: there files are whole too, but two commands on one are not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "WriteError",
    "check_writable",
    "claimed",
    "claimed_place",
    "is_claimed",
    "lock_of",
    "read_json",
    "write_atomically",
    "write_json",
]

logger = logging.getLogger("vpt_gym")


class WriteError(VPTGymError, OSError):
    """A file cannot be written: the disk is full, or the place is not ours."""

    @classmethod
    def of(cls, target: Path, error: OSError) -> WriteError:
        """The sentence for what the system said of a file."""
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        remedy = "free some space there" if full else "name a place that you can write to"
        return cls(f"{target} cannot be written: {error.strerror or error}; {remedy}.")


def check_writable(target: Path) -> None:
    """Make the folder of `target` and try to write beside it, so that hours of work are not lost to a wrong path.

    Raises:
        OptionError: the folder cannot be made or written to, or `target` is a folder.
    """
    attempt = target.with_name(f".{target.name}.attempt")
    try:
        if target.is_dir():
            raise OptionError(f"{target} is a folder; name a file in it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt.touch()
        attempt.unlink()
    except OSError as error:
        raise OptionError(f"{target} cannot be written: {error.strerror}; name a file in a folder of yours.") from error


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path beside `target` and of the same suffix, then move the result into place.

    Raises:
        WriteError: the system refused; the old file is there as it was.
    """
    temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        write(temporary)
        temporary.replace(target)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError.of(target, error) from error
    finally:
        # Also where the disk is full: what is half written takes the space that a last word needs.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(target: Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON, atomically.

    Raises:
        WriteError: the system refused.
    """
    text = json.dumps(values, indent=2) + "\n"
    write_atomically(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file that this package wrote.

    Args:
        file: there is one.
        remedy: what to do where it is damaged, the end of the message.

    Raises:
        VPTGymError: it cannot be read, or is no JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VPTGymError(f"{file} cannot be read ({error.strerror}); {remedy}.") from error
    except (ValueError, RecursionError) as error:
        raise VPTGymError(f"{file} is not valid JSON ({error}); {remedy}.") from error
    if not isinstance(values, dict):
        raise VPTGymError(f"{file} is damaged: it holds no JSON object; {remedy}.")
    return values


def lock_of(target: Path) -> Path:
    """The lock file of a single file, beside it."""
    return target.with_name(f".{target.name}.lock")


@contextlib.contextmanager
def claimed_place(target: Path, *, folder: bool = False) -> Iterator[None]:
    """Holds a file or a folder that is about to be written, by a lock beside it; makes what folders are wanting.

    Raises:
        OptionError: another command is at it, or it cannot be written.
        WriteError: the folder cannot be made.
    """
    if folder:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError.of(target, error) from error
    else:
        check_writable(target)
    with claimed(lock_of(target), f"The place {target}"):
        yield


@contextlib.contextmanager
def claimed(lock: Path, what: str) -> Iterator[None]:
    """Holds a lock file, which is removed afterwards; the system lets go of it when the process ends, however it ends.

    Args:
        lock: the file, in a folder that exists.
        what: belongs to who holds it, for the message.

    Raises:
        OptionError: another process, or another part of this one, holds it.
        WriteError: it cannot be made.
    """
    try:
        descriptor = _locked(lock, what)
    except OSError as error:
        raise WriteError.of(lock, error) from error
    try:
        yield
    finally:
        # First the name, while nobody else can hold it; then the lock, also for children that a fork gave it to.
        with contextlib.suppress(OSError):
            lock.unlink()
        with contextlib.suppress(OSError):
            _flock(descriptor, free=True)
        os.close(descriptor)


def is_claimed(lock: Path) -> bool:
    """Whether somebody holds this lock file now; one that was left behind by a killed process is held by nobody."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        _flock(descriptor)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def _locked(lock: Path, what: str) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor)
            # Who held it may have removed it between the two lines above: then this is a file without a name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                    return descriptor
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise OptionError(
                f"{what} belongs to a command that is running{f', process {owner}' * bool(owner)}; wait for its end, or name "
                "another place."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int, *, free: bool = False) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP}:
            raise
        logger.warning("This file system has no locks: two commands that write to one place are not noticed.")
