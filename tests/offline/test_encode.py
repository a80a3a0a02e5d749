"""`encode`: the latents are the online ones, nothing is done twice, lost or left half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.offline.material import noise, online, require_offline, small_encoder, write_episode, write_film
from tests.support.frames import MinecraftVideos
from vpt_gym.errors import OptionError, RecordingError
from vpt_gym.offline.plan import EncodingConfig
from vpt_gym.offline.report import EncodeReporter

require_offline()

from vpt_gym.offline import LatentDataset, encode  # noqa: E402 - needs the extra
from vpt_gym.offline.readers import find_recordings  # noqa: E402

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4


def _refused(name: str, error: RecordingError) -> None:
    raise error


def _latents(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with LatentDataset(path) as dataset:
        return {each.recording: dataset.read(each.number, ["latents"])[0] for each in dataset.episodes}


@pytest.fixture(scope="module")
def encoder() -> Any:
    return small_encoder()


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Five films of different lengths in a folder: more than rows, and some that end inside a window."""
    folder = tmp_path / "films"
    folder.mkdir()
    for place, count in enumerate((21, 5, 1, 33, 9)):
        write_film(folder / f"film{place}.mp4", noise(count, seed=place))
    return folder


def test_latents_are_the_wrappers_own(encoder: Any, real_frames: MinecraftVideos, tmp_path: Path) -> None:
    """Real Minecraft frames, through a film, against the online wrapper."""
    films = [write_film(tmp_path / f"{row}.mp4", frames) for row, frames in enumerate(real_frames.raw(12))]
    encode(films, tmp_path / "latents", encoder, EncodingConfig(rows=2, window=5))
    recordings = [next(find_recordings(film, _refused)) for film in films]
    frames = [np.concatenate([chunk.frames for chunk in recording.chunks(7)]) for recording in recordings]
    assert all(each.shape == (12, 360, 640, 3) for each in frames)
    latents = _latents(tmp_path / "latents")
    for film, wanted in zip(films, online(encoder, frames), strict=True):
        np.testing.assert_allclose(latents[film.name], wanted, atol=TOLERANCE, rtol=0)


def test_memory_runs_through_a_recording_that_is_longer_than_it(encoder: Any, tmp_path: Path) -> None:
    frames = noise(60, size=(32, 32))
    write_episode(tmp_path / "long.npz", frames)
    encode(tmp_path / "long.npz", tmp_path / "latents", encoder, EncodingConfig(rows=1, window=11))
    wanted = online(encoder, [frames])[0]
    np.testing.assert_allclose(_latents(tmp_path / "latents")["long.npz"], wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("rows", "window"), [(1, 1), (2, 4), (3, 64), (8, 7)])
def test_rows_and_windows_change_nothing(encoder: Any, films: Path, tmp_path: Path, rows: int, window: int) -> None:
    result = encode(films, tmp_path / "latents", encoder, EncodingConfig(rows=rows, window=window))
    assert (result.encoded, result.frames, result.failed) == (5, 69, {})
    latents = _latents(tmp_path / "latents")
    assert list(latents) == [f"film{place}.mp4" for place in range(5)], "the order of the inputs"
    for recording in find_recordings(films, _refused):
        frames = np.concatenate([chunk.frames for chunk in recording.chunks(100)])
        wanted = encoder.encode(frames[None])[0].numpy()
        np.testing.assert_allclose(latents[recording.name], wanted, atol=TOLERANCE, rtol=0)


def test_episodes_inside_a_recording_begin_anew(encoder: Any, tmp_path: Path) -> None:
    frames = noise(20, size=(32, 32))
    first = np.isin(np.arange(20), (0, 7, 8))
    labels = {"compass": np.arange(40.0).reshape(20, 2), "actions": np.arange(20) % 3, "rewards": np.arange(20.0)}
    write_episode(tmp_path / "three.npz", frames, first=first, **labels)
    encode(tmp_path / "three.npz", tmp_path / "latents", encoder, EncodingConfig(window=6))
    with LatentDataset(tmp_path / "latents") as dataset:
        assert [(each.frames, each.steps, each.first_frame) for each in dataset.episodes] == [
            (7, 6, 0),
            (1, 0, 7),
            (12, 11, 8),
        ]
        for each in dataset.episodes:
            here = slice(each.first_frame, each.first_frame + each.frames)
            latents, compass, actions, rewards = dataset.read(each.number, ["latents", "compass", "actions", "rewards"])
            wanted = encoder.encode(frames[None, here])[0].numpy()
            np.testing.assert_allclose(latents, wanted, atol=TOLERANCE, rtol=0)
            np.testing.assert_array_equal(compass, labels["compass"][here])
            np.testing.assert_array_equal(actions, labels["actions"][here][:-1])
            np.testing.assert_array_equal(rewards, labels["rewards"][here][:-1])


def test_minari_reads_it(encoder: Any, tmp_path: Path) -> None:
    import minari

    actions = np.array([0, 2, 1, 0, 2])
    write_episode(tmp_path / "a.npz", noise(6), actions=actions, rewards=np.arange(5.0), terminations=np.arange(5) == 4)
    write_episode(tmp_path / "b.npz", noise(4, seed=1), actions=actions[:3])
    encode(tmp_path, tmp_path / "latents", encoder, EncodingConfig(dtype="float16"))
    dataset = minari.MinariDataset(tmp_path / "latents" / "data")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 8)
    one, two = dataset.iterate_episodes()
    assert one.observations.shape == (6, encoder.latent_size)
    assert one.observations.dtype == np.float16
    assert all(dataset.observation_space.contains(latent) for latent in one.observations)
    np.testing.assert_array_equal(one.actions, actions)
    np.testing.assert_array_equal(one.rewards, np.arange(5.0))
    assert (one.terminations[-1], one.truncations[-1]) == (True, False)
    assert (two.terminations[-1], two.truncations[-1]) == (False, True), "an episode without an end was cut off"
    assert dataset.action_space.n == 3


def test_what_the_metadata_says(encoder: Any, films: Path, tmp_path: Path) -> None:
    import hashlib

    encode(films, tmp_path / "latents", encoder)
    with LatentDataset(tmp_path / "latents") as dataset:
        assert dataset.fingerprint == encoder.fingerprint
        assert dataset.encoder["source"] == encoder.source
        assert dataset.layers == ("final",)
        assert dataset.action_space is None
        for each in dataset.episodes:
            assert each.sha256 == hashlib.sha256(each.path.read_bytes()).hexdigest()
        times = dataset.read(0, ["frame_time"])[0]
    np.testing.assert_allclose(times, np.arange(21) / 20, atol=1e-3)


def test_all_layers_are_named(tmp_path: Path) -> None:
    encoder = small_encoder(layer="all")
    write_episode(tmp_path / "a.npz", noise(3))
    encode(tmp_path / "a.npz", tmp_path / "latents", encoder)
    with LatentDataset(tmp_path / "latents") as dataset:
        assert dataset.layers == ("cnn", "block0", "block1", "block2", "block3", "final")
        assert dataset.latent_size == 6 * 64


def test_what_is_done_is_not_done_again_and_the_dataset_grows(encoder: Any, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode(sorted(films.iterdir())[:3], out, encoder)
    before = _latents(out)
    result = encode(films, out, encoder)
    assert (result.encoded, result.passed) == (2, 3)
    after = _latents(out)
    assert list(after) == [f"film{place}.mp4" for place in range(5)]
    for name, latents in before.items():
        np.testing.assert_array_equal(after[name], latents)
    result = encode(films, out, encoder)
    assert (result.encoded, result.passed, result.path) == (0, 5, out)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_a_recording_that_is_given_twice_is_encoded_once(encoder: Any, films: Path, tmp_path: Path) -> None:
    film = films / "film0.mp4"
    result = encode([film, film], tmp_path / "latents", encoder)
    assert (result.encoded, result.passed) == (1, 1)


def test_corrupt_files_are_reported_and_left_out(encoder: Any, films: Path, tmp_path: Path) -> None:
    whole = (films / "film3.mp4").read_bytes()
    (films / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (films / "empty.mp4").write_bytes(b"")
    (films / "noise.npz").write_bytes(b"no archive")
    np.savez(films / "other.npz", pictures=np.zeros(3))
    content = write_episode(films / "short.npz", noise(30)).read_bytes()
    (films / "short.npz").write_bytes(content[:20000] + content[24000:])
    told: list[str] = []

    class Listener(EncodeReporter):
        def failed(self, name: str, error: RecordingError) -> None:
            told.append(name)

    result = encode(films, tmp_path / "latents", encoder, EncodingConfig(rows=2, window=4), reporter=Listener())
    assert set(result.failed) == {"cut.mp4", "empty.mp4", "noise.npz", "other.npz", "short.npz"}
    assert sorted(told) == sorted(result.failed)
    assert "frames" in result.failed["other.npz"]
    assert result.encoded == 5
    reference = encode(sorted(films.glob("film*")), tmp_path / "reference", encoder)
    assert reference.failed == {}
    for (name, latents), (_, wanted) in zip(
        _latents(tmp_path / "latents").items(), _latents(tmp_path / "reference").items(), strict=True
    ):
        np.testing.assert_allclose(latents, wanted, atol=TOLERANCE, rtol=0, err_msg=name)


def test_a_film_that_is_cut_off_behind_its_index_is_corrupt(encoder: Any, tmp_path: Path) -> None:
    """Its index lies at the start, so it opens, and decodes without an error as far as it goes."""
    import av

    frames = noise(40)
    with av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("mpeg4", rate=20)
        stream.height, stream.width = 36, 64
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "fast.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    (tmp_path / "fast.mp4").write_bytes(content[: len(content) * 2 // 3])
    result = encode(tmp_path / "fast.mp4", tmp_path / "latents", encoder)
    assert list(result.failed) == ["fast.mp4"]
    assert result.path is None
    assert not (tmp_path / "latents").exists()


class _StopAt(EncodeReporter):
    """Presses Ctrl-C when so many frames are through."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def progress(self, frames: int, passed: int, seconds: float) -> None:
        if frames >= self.frames:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(encoder: Any, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    config = EncodingConfig(rows=1, window=4)
    result = encode(films, out, encoder, config, reporter=_StopAt(30))
    assert (result.stopped, result.path, result.encoded) == (True, None, 3)
    assert not out.exists()
    result = encode(films, out, encoder, config)
    assert (result.stopped, result.encoded, result.passed) == (False, 2, 3)
    encode(films, tmp_path / "reference", encoder, config)
    for (name, latents), (other, wanted) in zip(
        _latents(out).items(), _latents(tmp_path / "reference").items(), strict=True
    ):
        assert name == other
        np.testing.assert_allclose(latents, wanted, atol=TOLERANCE, rtol=0)


def test_kill_minus_nine_costs_the_unfinished_recordings_alone(films: Path, tmp_path: Path) -> None:
    """A process is killed in the middle of a recording; another goes on, and nothing half-written is ever seen."""
    out = tmp_path / "latents"
    command = [sys.executable, "-m", "vpt_gym.cli", "encode", str(films), "--out", str(out), "--encoder", "random:tiny"]
    write_film(films / "long.mp4", noise(900, size=(64, 64)))
    process = subprocess.Popen([*command, "--rows", "1", "--window", "8"], cwd=ROOT, stdout=subprocess.DEVNULL)
    waiting = tmp_path / ".latents.partial"
    deadline = time.monotonic() + 120
    while len(list(waiting.glob("*.hdf5"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(waiting.glob("*.hdf5"))) == 5
    assert not out.exists()
    (films / "long.mp4").unlink()
    from vpt_gym import load_encoder

    result = encode(films, out, load_encoder("random:tiny"))
    assert (result.encoded, result.passed) == (0, 5)
    assert list(_latents(out)) == [f"film{place}.mp4" for place in range(5)]


def test_refused(encoder: Any, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode(films / "film0.mp4", out, encoder)
    with pytest.raises(RecordingError, match=r"holds latents of random:test .* name another --out"):
        encode(films, out, small_encoder(layer="block1"))
    with pytest.raises(RecordingError, match="in float32, but float16"):
        encode(films, out, encoder, EncodingConfig(dtype="float16"))
    with pytest.raises(RecordingError, match="is not there"):
        encode(tmp_path / "nowhere", out, encoder)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(RecordingError, match="holds no recordings"):
        encode(tmp_path / "hollow", out, encoder)
    with pytest.raises(RecordingError, match="is no dataset of latents"):
        encode(films, films, encoder)
    write_episode(films / "acted.npz", noise(4), actions=np.zeros(3, int))
    with pytest.raises(RecordingError, match=r"film0\.mp4, have none"):
        encode(films, tmp_path / "mixed", encoder)
    write_episode(tmp_path / "boxed.npz", noise(4), actions=np.zeros((3, 2)))
    with pytest.raises(RecordingError, match="different spaces"):
        encode([films / "acted.npz", tmp_path / "boxed.npz"], tmp_path / "mixed", encoder)
    assert not (tmp_path / "mixed").exists()
    with pytest.raises(OptionError, match="dtype must be one of float32, float16"):
        EncodingConfig(dtype="int8")


def test_latents_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    encoder = small_encoder()
    encoder.network.net.final_norm.weight.data.mul_(1e6)
    write_episode(tmp_path / "a.npz", noise(3))
    with pytest.raises(OptionError, match="with dtype float32"):
        encode(tmp_path / "a.npz", tmp_path / "latents", encoder, EncodingConfig(dtype="float16"))
    assert not (tmp_path / "latents").exists()
