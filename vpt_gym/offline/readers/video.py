"""Films: what PyAV decodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from vpt_gym.errors import RecordingError
from vpt_gym.extras import import_extra
from vpt_gym.offline.recordings import TIME, Chunk, Recording, digest_of_file, failing_as

__all__ = ["VIDEO_SUFFIXES", "VideoRecording", "decoded"]

VIDEO_SUFFIXES: Final = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")


class VideoRecording(Recording):
    """A film, from its first frame to its last as one episode.

    Args:
        path: of the file.
        name: what it is called.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.frame_count = promised_frames(path, name)

    def digest(self) -> str:
        """As `Recording.digest`."""
        return digest_of_file(self.path)

    def chunks(self, length: int) -> Iterator[Chunk]:
        """As `Recording.chunks`; the one label is `frame_time`."""
        start = 0
        for frames, times in decoded(self.path, self.name, length):
            yield Chunk(frames, opening(len(frames), start), {TIME: times})
            start += len(frames)


def opening(count: int, start: int) -> npt.NDArray[np.bool_]:
    """The flags `first` [count] of a chunk that begins at frame `start` of an episode."""
    first: npt.NDArray[np.bool_] = np.arange(start, start + count) == 0
    return first


def promised_frames(path: Path, name: str) -> int | None:
    """How many frames the container says that it holds; None where it does not say.

    Raises:
        RecordingError: it is no film.
    """
    av: Any = import_extra("av", "offline", "Reading a film")
    with failing_as(name, av.error.FFmpegError, OSError), av.open(str(path)) as container:
        if not container.streams.video:
            raise RecordingError(f"{name} has no pictures, only {len(container.streams)} other streams: leave it out.")
        return int(container.streams.video[0].frames) or None


def decoded(
    source: Path | IO[bytes], name: str, length: int
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]]:
    """Decodes a film.

    Args:
        source: a file, or its bytes.
        name: for messages.
        length: frames at a time.

    Yields:
        uint8 [t, H, W, 3] with their times, float64 [t] in seconds from the first frame; t is `length`, or less at the end.

    Raises:
        RecordingError: it cannot be decoded, ends too early, or holds no frame.
    """
    av: Any = import_extra("av", "offline", "Reading a film")
    frames: list[Any] = []
    times: list[float] = []
    begin: float | None = None
    opened = str(source) if isinstance(source, Path) else source
    with failing_as(name, av.error.FFmpegError, OSError), av.open(opened) as container:
        stream = container.streams.video[0]
        packets = 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            for frame in packet.decode():
                begin = frame.time if begin is None else begin
                times.append((frame.time or 0.0) - (begin or 0.0))
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == length:
                    yield np.stack(frames), np.array(times)
                    frames, times = [], []
        # A file that was cut off decodes without an error, as far as it goes.
        if packets < stream.frames:
            raise RecordingError(
                f"{name} is cut off: it holds {packets} of {stream.frames} frames; get it again, or leave it out."
            )
    if frames:
        yield np.stack(frames), np.array(times)
    if not packets:
        raise RecordingError(f"{name} holds no frame: leave it out.")
