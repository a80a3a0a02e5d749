"""`encode`: recordings in, a dataset of latents out; resumed where it stopped."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from vpt_gym.encoders import Encoder, load_encoder
from vpt_gym.encoders.protocol import Stream
from vpt_gym.errors import OptionError, RecordingError, VPTGymError
from vpt_gym.extras import import_extra
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.feeding import Feed, Passed, Piece, Strip
from vpt_gym.offline.plan import EncodingConfig
from vpt_gym.offline.readers import find_recordings
from vpt_gym.offline.recordings import Recording
from vpt_gym.offline.report import EncodeReporter, EncodeResult
from vpt_gym.offline.spaces import common_space
from vpt_gym.offline.writing import PieceWriter, assemble
from vpt_gym.running.files import read_json, write_json
from vpt_gym.running.stopping import StopSignal

__all__ = ["encode"]

THREADS: Final = 4
"""Most threads that decode: more than the network can keep up with, on any machine that was measured."""


def encode(
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    encoder: Encoder | str,
    config: EncodingConfig | None = None,
    *,
    reporter: EncodeReporter | None = None,
) -> EncodeResult:
    """Encodes recordings into a dataset of latents, in Minari's HDF5 layout.

    Each recording is one or more episodes. Memory runs through an episode from its start to its end, whatever the window, and
    the latents are those that a wrapper gives online for the same frames. What is in the dataset already is not encoded again;
    an encoding that was stopped, even by a power failure, goes on with the recordings that were not finished. A recording that
    cannot be read is left out.

    Args:
        inputs: films, `.npz` files, or folders: Minari datasets, MineStudio's trajectories, or folders of films and `.npz`.
        out: the dataset's folder; where there is one of the same encoder, it grows.
        encoder: loaded, or a source for `load_encoder`.
        config: how; None for the defaults.
        reporter: is told how far it is.

    Raises:
        OptionError: the encoder reads more than frames.
        RecordingError: there are no recordings; or some have actions and some none, or others; or `out` is something else, or
            holds latents of another encoder, or another process is at it.
    """
    config = config or EncodingConfig()
    reporter = reporter or EncodeReporter()
    out = Path(out)
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    if encoder.also_reads:
        raise OptionError(
            f"{encoder!r} reads {', '.join(encoder.also_reads)} beside the image, which recordings do not have: encode with "
            "an encoder that reads frames alone."
        )
    for module in ("h5py", "minari"):
        import_extra(module, "offline", "Encoding recordings")
    result = EncodeResult(None)

    def refused(name: str, error: RecordingError) -> None:
        result.failed[name] = str(error)
        reporter.failed(name, error)

    paths = [Path(each) for each in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    recordings = list(chain.from_iterable(find_recordings(path, refused) for path in paths))
    facts = _facts(encoder, config)
    with _Workshop(out, facts, recordings) as workshop:
        counts = [recording.frame_count for recording in recordings]
        frames = None if None in counts else sum(count or 0 for count in counts)
        reporter.starting(len(recordings), frames, encoder)
        begin = time.monotonic()
        with StopSignal() as stop:
            _work(workshop, recordings, encoder, config, result, reporter, refused, stop, begin)
            result.seconds = time.monotonic() - begin
            if not result.stopped:
                with stop.held():
                    result.path = workshop.deliver(encoder.latent_size)
    return result


def _work(
    workshop: _Workshop,
    recordings: list[Recording],
    encoder: Encoder,
    config: EncodingConfig,
    result: EncodeResult,
    reporter: EncodeReporter,
    refused: Callable[[str, RecordingError], None],
    stop: StopSignal,
    begin: float,
) -> None:
    stream = encoder.stream(config.rows)
    feed = Feed(
        iter(recordings),
        rows=config.rows,
        length=config.window,
        size=encoder.frame_size,
        is_done=workshop.is_done,
        threads=min(config.rows, THREADS, os.cpu_count() or 1),
    )
    order = {id(recording): place for place, recording in enumerate(recordings)}
    writers: dict[str, PieceWriter] = {}
    passed = seen = 0
    try:
        with feed:
            for window in feed:
                latents = _latents_of(stream, window)
                for strip, latents_td in zip(window, latents, strict=True):
                    for event in strip.events:
                        if isinstance(event, Passed):
                            result.passed += 1
                            passed += event.recording.frame_count or 0
                        elif isinstance(event, Piece):
                            if event.key not in writers:
                                writers[event.key] = workshop.writer(event, order[id(event.recording)], config)
                            part = latents_td[event.start : event.stop]
                            writers[event.key].append(part, event.chunk.first, event.chunk.columns)
                        elif event.error is not None:
                            refused(event.recording.name, event.error)
                            if event.key in writers:
                                writers.pop(event.key).drop()
                        else:
                            writer = writers.pop(event.key)
                            writer.finish()
                            result.encoded += 1
                            result.frames += writer.frames
                    seen += len(strip.first)
                reporter.progress(seen, passed, time.monotonic() - begin)
                if stop.requested:
                    result.stopped = True
                    break
    finally:
        for writer in writers.values():
            writer.drop()


def _latents_of(stream: Stream, window: list[Strip]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """float32 [t, D] of each strip; strips of one length go through the network together, which all but the last do."""
    latents = [np.zeros((0, 0), np.float32)] * len(window)
    for length in sorted({len(strip.first) for strip in window} - {0}):
        rows = [row for row, strip in enumerate(window) if len(strip.first) == length]
        frames_bthwc = np.stack([window[row].frames for row in rows])
        latents_btd = stream.encode(frames_bthwc, np.stack([window[row].first for row in rows]), rows)
        for row, latents_td in zip(rows, latents_btd.cpu().numpy(), strict=True):
            latents[row] = latents_td
    return latents


def _facts(encoder: Encoder, config: EncodingConfig) -> dict[str, Any]:
    """What the dataset's metadata says of how it came about, JSON values."""
    described = encoder.describe()
    layer = described["options"].get("layer")
    if layer == "all":
        from vpt_gym.config import VPTConfig
        from vpt_gym.nn import layer_names

        layers = list(layer_names(VPTConfig(**described["architecture"])))
    else:
        layers = [layer or described["kind"]]
    return {
        "format": 1,
        "encoder": described,
        "layers": layers,
        "latent_size": encoder.latent_size,
        "dtype": config.dtype,
        "compression": config.compression,
    }


class _Workshop:
    """The dataset that grows, and the folder beside it in which finished recordings wait; a context manager.

    Args:
        out: the dataset's folder.
        facts: how this encoding goes about.
        recordings: what shall be in it.
    """

    def __init__(self, out: Path, facts: dict[str, Any], recordings: list[Recording]) -> None:
        self.out = out
        self.facts = facts
        self.folder = out.with_name(f".{out.name}.partial")
        self._done: set[str] = set()
        spaces = [recording.action_space for recording in recordings]
        try:
            there = out.exists()
        except OSError as error:  # such as a name that is too long
            raise OptionError(f"{out} cannot be written: {error.strerror}; name a folder of yours.") from error
        if there:
            with LatentDataset(out) as dataset:
                self._check(dataset.facts, str(out))
                self._done = {f"{episode.sha256}-{episode.part}" for episode in dataset.episodes}
                spaces.append(dataset.action_space)
        if not spaces:
            raise RecordingError(f"None of the recordings for {out} can be read: look at what was reported of each.")
        self.action_space = _space_of_all(spaces, recordings)

    def __enter__(self) -> _Workshop:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise OptionError(f"{self.out} cannot be written: {error.strerror}; name a folder of yours.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RecordingError(f"Another process is encoding into {self.out}: wait until it is through.") from error
        terms = self.folder / "terms.json"
        try:
            if terms.exists():
                there = read_json(terms, f"delete {self.folder}, and what was encoded into it is encoded again")
                self._check(there, f"{self.folder}, where an encoding was stopped,")
            else:
                write_json(terms, self.facts)
        except VPTGymError:
            self._lock.close()
            raise
        for left in self.folder.glob(".*.partial"):  # what a process that was killed had not finished
            left.unlink()
        self._done |= {piece.stem for piece in self.folder.glob("*.hdf5")}
        return self

    def __exit__(self, *args: object) -> None:
        self._lock.close()

    def is_done(self, key: str) -> bool:
        """Whether the recording of this key is in the dataset, or waits to be put there."""
        return key in self._done

    def writer(self, piece: Piece, order: int, config: EncodingConfig) -> PieceWriter:
        """For a recording that begins."""
        digest = piece.key.rpartition("-")[0]
        target = self.folder / f"{piece.key}.hdf5"
        return PieceWriter(target, piece.recording, digest, order, dtype=config.dtype, compression=config.compression)

    def deliver(self, latent_size: int) -> Path | None:
        """Puts what is finished into the dataset, in the order of the inputs; None if there is no dataset, then or before."""
        import h5py

        pieces = {}
        for piece in self.folder.glob("*.hdf5"):
            with h5py.File(piece, "r") as file:
                pieces[piece] = (int(file.attrs["order"]), piece.name)
        if pieces:
            assemble(
                self.out,
                sorted(pieces, key=pieces.__getitem__),
                facts=self.facts,
                action_space=self.action_space,
                latent_size=latent_size,
            )
        shutil.rmtree(self.folder)
        return self.out if self.out.exists() else None

    def _check(self, facts: dict[str, Any], name: str) -> None:
        """Raises RecordingError unless what is there was made as this encoding goes about."""
        theirs, ours = facts["encoder"]["fingerprint"], self.facts["encoder"]["fingerprint"]
        if theirs != ours:
            raise RecordingError(
                f"{name} holds latents of {facts['encoder']['source']} (fingerprint {theirs[:12]}), but the encoder is "
                f"{self.facts['encoder']['source']} (fingerprint {ours[:12]}): name another --out, or delete it."
            )
        if facts["dtype"] != self.facts["dtype"]:
            raise RecordingError(
                f"{name} holds latents in {facts['dtype']}, but {self.facts['dtype']} is asked for: ask for "
                f"{facts['dtype']}, or name another --out."
            )


def _space_of_all(spaces: list[gym.Space[Any] | None], recordings: list[Recording]) -> gym.Space[Any] | None:
    known = [space for space in spaces if space is not None]
    if not known:
        return None
    if len(known) < len(spaces):
        without = next((each.name for each in recordings if each.action_space is None), "the dataset")
        raise RecordingError(
            f"Some recordings have actions and some, as {without}, have none: encode them into two datasets."
        )
    space = common_space(known)
    if space is None:
        words = " and ".join(sorted({str(each) for each in known})[:2])
        raise RecordingError(
            f"The recordings have actions of different spaces, {words}: encode them into datasets apart."
        )
    return space
