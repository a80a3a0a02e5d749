"""LeRobot datasets, written here as the layouts of versions 2.1 and 3.0 are documented."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from tests.offline.material import noise, require_offline, small_encoder, write_film
from vpt_gym.errors import RecordingError
from vpt_gym.offline.recordings import ACTED, TIME, Recording

require_offline()

from vpt_gym.offline import LatentDataset, encode  # noqa: E402 - needs the extra
from vpt_gym.offline.neighbours import Moment  # noqa: E402
from vpt_gym.offline.readers import find_recordings  # noqa: E402
from vpt_gym.offline.sheet import pictures_of  # noqa: E402

LENGTHS = (9, 14, 5)
RATE = 10
CAMERA = "observation.images.top"
FRAMES = [noise(length, seed=number) for number, length in enumerate(LENGTHS)]


def write(root: Path, version: str, kind: str, **features: dict[str, Any]) -> Path:
    """A dataset of `LENGTHS`; `kind` is video or image; further features count up in whatever shape they are told."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    described: dict[str, dict[str, Any]] = {
        CAMERA: {"dtype": kind, "shape": [36, 64, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2]},
        **features,
        "next.reward": {"dtype": "float32", "shape": [1]},
        "next.done": {"dtype": "bool", "shape": [1]},
        "timestamp": {"dtype": "float32", "shape": [1]},
        **{name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    three = version == "v3.0"
    info = {
        "codebase_version": version,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "chunks_size": 1000,
        "fps": RATE,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if three
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if three
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": described,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tables, begin = [], 0
    for number, frames in enumerate(FRAMES):
        table = _rows(number, len(frames), begin, described)
        if kind == "image":
            table[CAMERA] = [{"bytes": _png(frame), "path": f"frame_{place}.png"} for place, frame in enumerate(frames)]
        tables.append(pa.table(table))
        begin += len(frames)
    films = root / "videos"
    if three:
        episodes = [
            {
                "episode_index": number,
                "length": length,
                "tasks": ["push"],
                "data/chunk_index": 0,
                "data/file_index": 0,
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": 0,
                f"videos/{CAMERA}/from_timestamp": sum(LENGTHS[:number]) / RATE,
                f"videos/{CAMERA}/to_timestamp": sum(LENGTHS[: number + 1]) / RATE,
                "stats/action/mean": [0.0, 0.0],
            }
            for number, length in enumerate(LENGTHS)
        ]
        _put(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(episodes))
        _put(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables))
        if kind == "video":
            _film(films / CAMERA / "chunk-000/file-000.mp4", np.concatenate(FRAMES))
        return root
    lines = [{"episode_index": number, "tasks": ["push"], "length": length} for number, length in enumerate(LENGTHS)]
    (root / "meta" / "episodes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for number, frames in enumerate(FRAMES):
        _put(root / f"data/chunk-000/episode_{number:06d}.parquet", tables[number])
        if kind == "video":
            _film(films / "chunk-000" / CAMERA / f"episode_{number:06d}.mp4", frames)
    assert pq
    return root


def _rows(number: int, count: int, begin: int, features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, feature in features.items():
        if feature["dtype"] in ("video", "image"):
            continue
        if feature["dtype"] == "string":
            rows[name] = ["a"] * count
            continue
        values = np.arange(count * int(np.prod(feature["shape"]))).reshape(count, *feature["shape"])
        values = (values[:, 0] if feature["shape"] == [1] else values).astype(feature["dtype"])
        rows[name] = values.tolist() if values.ndim > 1 else values
    rows |= {
        "timestamp": (np.arange(count) / RATE).astype(np.float32),
        "frame_index": np.arange(count),
        "episode_index": np.full(count, number),
        "index": np.arange(begin, begin + count),
        "task_index": np.zeros(count, int),
        "next.done": np.arange(count) == count - 1,
    }
    return rows


def _png(frame: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def _put(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _film(path: Path, frames: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(path, frames, rate=RATE)


def _refused(name: str, error: RecordingError) -> None:
    raise error


def _all(recording: Recording) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    chunks = list(recording.chunks(4))
    assert [bool(flag) for chunk in chunks for flag in chunk.first] == [True] + [False] * (sum(map(len, chunks)) - 1)
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns}
    return np.concatenate([chunk.frames for chunk in chunks]), columns


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_every_episode_comes_with_its_own_frames(tmp_path: Path, version: str, kind: str) -> None:
    state = {"observation.state": {"dtype": "float32", "shape": [3]}, "words": {"dtype": "string", "shape": [1]}}
    root = write(tmp_path / "robot", version, kind, **state)
    recordings = list(find_recordings(root, _refused))
    assert [(each.name, each.part, each.frame_count) for each in recordings] == [
        (f"robot/episode {number}", number, length) for number, length in enumerate(LENGTHS)
    ]
    assert len({f"{each.digest()}-{each.part}" for each in recordings}) == 3
    for recording, wanted in zip(recordings, FRAMES, strict=True):
        assert recording.action_space == gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        frames, columns = _all(recording)
        count = len(wanted)
        if kind == "image":
            np.testing.assert_array_equal(frames, wanted)
        else:
            assert frames.shape == wanted.shape
            apart = np.abs(frames[:, None].astype(int) - wanted[None].astype(int)).mean(axis=(2, 3, 4))
            np.testing.assert_array_equal(apart.argmin(axis=1), np.arange(count))
            assert apart.diagonal().max() < 20, "a film loses a little"
        assert set(columns) == {
            "actions", "rewards", "terminations", "truncations", ACTED, TIME, "observation.state", "task_index"
        }  # fmt: skip
        np.testing.assert_array_equal(columns["actions"], np.arange(2 * count).reshape(count, 2))
        np.testing.assert_array_equal(columns["observation.state"], np.arange(3 * count).reshape(count, 3))
        np.testing.assert_array_equal(columns["rewards"], np.arange(count))
        np.testing.assert_array_equal(columns["terminations"], np.arange(count) == count - 1)
        np.testing.assert_allclose(columns[TIME], np.arange(count) / RATE, atol=1e-6)


def test_it_is_encoded_and_its_frames_are_found_again(tmp_path: Path) -> None:
    root = write(tmp_path / "robot", "v3.0", "image", button={"dtype": "int64", "shape": [1]})
    result = encode(root, tmp_path / "latents", small_encoder())
    assert (result.encoded, result.frames, result.failed) == (3, sum(LENGTHS), {})
    with LatentDataset(tmp_path / "latents") as dataset:
        assert dataset.labels == ("button", TIME, "task_index")
        (picture,) = pictures_of(dataset, [Moment(1, 3, 0.0)])
        np.testing.assert_array_equal(picture, FRAMES[1][3])


def test_one_of_several_cameras_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "robot", "v2.1", "video", wrist={"dtype": "image", "shape": [36, 64, 3]})
    with pytest.raises(RecordingError, match=r"it has several: name one behind the folder, as .*images.top; .* wrist"):
        list(find_recordings(root, _refused))
    with pytest.raises(RecordingError, match="left is none of them"):
        list(find_recordings(root / "left", _refused))
    (first, *_) = find_recordings(root / CAMERA, _refused)
    assert _all(first)[0].shape == FRAMES[0].shape


@pytest.mark.parametrize(
    ("action", "space"),
    [
        ({"dtype": "int64", "shape": [1]}, gym.spaces.Discrete(9)),
        ({"dtype": "int64", "shape": [2]}, gym.spaces.MultiDiscrete([17, 18])),
    ],
)
def test_whole_numbers_are_choices(tmp_path: Path, action: dict[str, Any], space: gym.Space[Any]) -> None:
    (first, *_) = find_recordings(write(tmp_path / "robot", "v3.0", "image", action=action), _refused)
    assert first.action_space == space
    assert _all(first)[1]["actions"][3] in space


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="actions of type string, and numbers are read"):
        list(
            find_recordings(write(tmp_path / "a", "v3.0", "image", action={"dtype": "string", "shape": [1]}), _refused)
        )
    old = write(tmp_path / "b", "v3.0", "image")
    info = json.loads((old / "meta/info.json").read_text())
    (old / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(RecordingError, match=r"of version v1\.6, and those from v2\.0 to v3\.0 are read"):
        list(find_recordings(old, _refused))
    (old / "meta/info.json").write_text(json.dumps({**info, "features": {}}))
    with pytest.raises(RecordingError, match="has no camera"):
        list(find_recordings(old, _refused))
    (old / "meta/info.json").write_text("{")
    with pytest.raises(RecordingError, match="cannot be read"):
        list(find_recordings(old, _refused))
    cut = write(tmp_path / "c", "v2.1", "video")
    film = cut / "videos" / "chunk-000" / CAMERA / "episode_000001.mp4"
    write_film(film, FRAMES[1][:6], rate=RATE)
    recordings = list(find_recordings(cut, _refused))
    with pytest.raises(RecordingError, match="episode 1 holds 6 of 14 frames"):
        list(recordings[1].chunks(4))
    (cut / "data/chunk-000/episode_000002.parquet").unlink()
    with pytest.raises(RecordingError, match=r"episode_000002\.parquet"):
        recordings[2].digest()
