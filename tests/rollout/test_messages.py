from __future__ import annotations

import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vpt_gym.rollout.messages import Channel


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


class Odd:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def in_bytes(message: Any) -> bytes:
    pickled = pickle.dumps(message, 5)
    return struct.pack("!Q", len(pickled)) + pickled


@pytest.mark.parametrize("patience", [None, 10.0], ids=["waits", "does not wait"])
def test_messages_of_any_size_arrive_in_order(
    patience: float | None, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Those that fill the buffer to the byte, and that fill the socket's, too."""
    mine, theirs = Channel(ends[0], patience), Channel(ends[1])
    around = [bytes(size) for size in range(2**16 - 60, 2**16)]
    assert {2**16 - 1, 2**16, 2**16 + 1} <= {len(in_bytes(each)) for each in around}
    sent = around + [np.arange(size, dtype=np.uint8) for size in (0, 1, 49_152, 3_000_000, 7)]
    sender = threading.Thread(target=lambda: [mine.send(each) for each in sent])
    sender.start()
    for each in sent:
        np.testing.assert_array_equal(theirs.receive(), each)
    sender.join()


def test_a_message_in_parts_is_none_until_it_is_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    channel = Channel(ends[0], 10.0)
    assert channel.receive() is None
    first, second = in_bytes(("step", 1)), in_bytes("second")
    for i in range(len(first) - 1):
        ends[1].sendall(first[i : i + 1])
        assert channel.receive() is None
    ends[1].sendall(first[-1:] + second + first[:11])  # the end, a whole one, and a third one's beginning
    assert channel.receive() == ("step", 1)
    assert channel.receive() == "second"
    assert channel.receive() is None
    ends[1].sendall(first[11:])
    assert channel.receive() == ("step", 1)


@pytest.mark.parametrize("part", [0, 3, 12])
def test_a_message_that_will_never_be_whole(part: int, ends: tuple[socket.socket, socket.socket]) -> None:
    channel = Channel(ends[0], 10.0)
    ends[1].sendall(in_bytes("word")[:part])
    ends[1].close()
    with pytest.raises(EOFError):
        channel.receive()


def test_what_cannot_travel_leaves_the_connection_as_it_was(ends: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = Channel(ends[0]), Channel(ends[1], 10.0)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        mine.send(lambda: 0)
    mine.send(Odd())
    mine.send("next")
    with pytest.raises(ValueError, match="no number"):
        theirs.receive()
    assert theirs.receive() == "next"


def test_nobody_waits_longer_than_patience_for_one_who_does_not_read(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Channel(ends[0], 0.2).send(bytes(10_000_000))
    assert time.monotonic() - began >= 0.2
