"""Rows go on from batch to batch, whatever the recordings' lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.offline.material import require_offline
from tests.offline.recordings import SIZE, write_recordings
from vpt_gym.errors import RecordingError
from vpt_gym.offline.pretraining.pieces import Loader, Pieces, split
from vpt_gym.offline.readers.finding import find_recordings
from vpt_gym.offline.recordings import Recording

require_offline()

LENGTHS = (3, 1, 17, 8, 30, 5)


def pieces_of(folder: Path, *, rows: int = 3, length: int = 4, batches: int | None = 12, size: int = SIZE) -> Pieces:
    return Pieces(recordings(folder), rows=rows, length=length, batches=batches, seed=1, frame_size=size, keys=())


def recordings(folder: Path) -> list[Recording]:
    return list(find_recordings(folder, lambda name, error: pytest.fail(f"{name}: {error}")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("pieces") / "plays", LENGTHS)


def test_a_row_is_whole_recordings_one_behind_the_other(folder: Path) -> None:
    pieces = pieces_of(folder)
    batches = [pieces[i] for i in range(len(pieces))]
    whole = [dict(np.load(recording.path)) for recording in recordings(folder)]
    for row in range(3):
        frames = np.concatenate([batch["frames"][row].numpy() for batch in batches])
        actions = np.concatenate([batch["actions"][row].numpy() for batch in batches])
        first = np.concatenate([batch["first"][row].numpy() for batch in batches])
        assert first[0]
        starts = np.flatnonzero(first)
        for start, end in zip(starts, [*starts[1:], len(first)], strict=True):
            # The recording is the one that begins with this frame; the last of a row may be cut.
            match = [w for w in whole if (w["frames"][0] == frames[start]).all()]
            assert len(match) == 1
            assert (match[0]["frames"][: end - start] == frames[start:end]).all()
            assert (match[0]["actions"][: end - start] == actions[start:end]).all()
            assert end == len(first) or end - start == len(match[0]["frames"])


def test_any_batch_by_itself_is_the_same(folder: Path) -> None:
    straight, jumping = pieces_of(folder), pieces_of(folder)
    expected = [straight[i] for i in range(12)]
    for i in (7, 2, 11):
        for name, values in jumping[i].items():
            assert (values == expected[i][name]).all()
    loader = Loader(pieces_of(folder), workers=0)
    loader.load_state_dict({"next": 9})
    rest = list(loader)
    assert len(rest) == 3
    assert (rest[0]["frames"] == expected[9]["frames"]).all()
    assert len(list(loader)) == 12


def test_one_round_shows_every_frame_once_and_pads(folder: Path) -> None:
    pieces = pieces_of(folder, batches=None)
    counted = sum(float(pieces[i]["mask"].sum()) for i in range(len(pieces)))
    assert counted == sum(LENGTHS)


def test_frames_of_another_size_are_resized(folder: Path) -> None:
    batch = pieces_of(folder, size=24)[0]
    assert batch["frames"].shape == (3, 4, 24, 24, 3)


def test_a_share_of_every_folder_is_held_out(folder: Path) -> None:
    groups = [recordings(folder), recordings(folder)]
    training, validation = split(groups, 0.2, seed=0)
    assert all(set(validation) & set(group) for group in groups)
    assert not set(training) & set(validation)
    assert len(training) + len(validation) == 2 * len(LENGTHS)


def test_less_than_a_batch_is_refused(folder: Path) -> None:
    with pytest.raises(RecordingError, match="hold 64 frames, and one batch has 16 x 16"):
        pieces_of(folder, rows=16, length=16)


def test_a_recording_that_is_cut_off_is_named(tmp_path: Path) -> None:
    plays = write_recordings(tmp_path / "plays", (5, 600))
    pieces = pieces_of(plays)
    file = plays / "episode-000001.npz"
    file.write_bytes(file.read_bytes()[:200_000])
    with pytest.raises(RecordingError, match=r"episode-000001.npz"):
        list(Loader(pieces, workers=0))
