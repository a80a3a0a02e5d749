"""What a learner and a worker process of the same machine say to each other: pickles over a pair of sockets."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any, Final

__all__ = ["Channel"]

_LENGTH: Final = struct.Struct("!Q")
"""What stands before every pickle: how many bytes it has."""


class Channel:
    """One end of a connection.

    A `Connection` of the standard library, once a message has begun, waits for the whole of it, however long the other side
    takes: a worker that hangs in the middle of its answer would hang the learner too. It also writes and reads twice for every
    frame.

    Args:
        end: of a pair of sockets.
        patience: None for an end that waits; otherwise seconds in which `send` must be able to go on, and `receive` never
            waits.
    """

    def __init__(self, end: socket.socket, patience: float | None = None) -> None:
        self._end = end
        self._end.setblocking(patience is None)
        self.patience = patience
        self._buffer = bytearray(2**16)
        self._filled = 0
        """Bytes of it that have come and were not given yet."""

    def send(self, message: Any) -> None:
        """Raises what pickling raises, before anything is sent; TimeoutError; OSError where the other side is gone."""
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        left = memoryview(_LENGTH.pack(len(pickled)) + pickled)
        while left:
            try:
                left = left[self._end.send(left) :]
            except BlockingIOError:
                self._end.settimeout(self.patience)
                try:
                    left = left[self._end.send(left) :]
                finally:
                    self._end.setblocking(False)

    def receive(self) -> Any:
        """The next message; None where it is not whole yet. Raises EOFError or OSError where the other side is gone."""
        while self._filled < (size := self._size()):
            if size > len(self._buffer):
                self._buffer += bytearray(size - len(self._buffer))
            with memoryview(self._buffer) as view:
                try:
                    came = self._end.recv_into(view[self._filled :])
                except BlockingIOError:
                    return None
            if not came:
                raise EOFError
            self._filled += came
        try:
            with memoryview(self._buffer) as view:
                return pickle.loads(view[_LENGTH.size : size])
        finally:
            # Who closes in the middle of a step has asked a second time before the first answer.
            self._buffer[: self._filled - size] = self._buffer[size : self._filled]
            self._filled -= size

    def _size(self) -> int:
        """Of the message that comes, as far as is known."""
        if self._filled < _LENGTH.size:
            return _LENGTH.size
        return _LENGTH.size + int(_LENGTH.unpack_from(self._buffer)[0])
