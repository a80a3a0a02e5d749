"""`nearest`: exact, from disk, within bounded memory; and the frames themselves as a picture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.offline.material import noise, require_offline, small_encoder, write_episode, write_film, write_latents
from vpt_gym.cli.main import main
from vpt_gym.errors import OptionError, RecordingError

require_offline()

from vpt_gym.offline import LatentDataset, encode, nearest, neighbours  # noqa: E402 - needs the extra
from vpt_gym.offline.neighbours import Moment  # noqa: E402
from vpt_gym.offline.pictures import latent_of_pictures, read_picture  # noqa: E402
from vpt_gym.offline.sheet import contact_sheet, pictures_of  # noqa: E402


@pytest.fixture(scope="module")
def latents() -> list[np.ndarray]:
    """Episodes in which neighbours in time are near one another, far from zero, so that products would cancel."""
    rng = np.random.default_rng(0)
    return [(1000 + rng.normal(size=(length, 5)).cumsum(axis=0) * 0.01).astype(np.float32) for length in (300, 7, 120)]


@pytest.fixture(scope="module")
def data(latents: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("nearest") / "data", [{"latents": each} for each in latents])


def _by_hand(latents: list[np.ndarray], query: np.ndarray, k: int, power: int, apart: int) -> list[tuple[int, int]]:
    rows = [
        (float((np.abs(each[frame].astype(float) - query) ** power).sum() ** (1 / power)), number, frame)
        for number, each in enumerate(latents)
        for frame in range(len(each))
    ]
    kept: list[tuple[float, int, int]] = []
    for row in sorted(rows):
        if all(row[1] != other[1] or abs(row[2] - other[2]) >= apart for other in kept):
            kept.append(row)
    return [(number, frame) for _, number, frame in kept[:k]]


@pytest.mark.parametrize(("metric", "power"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("apart", [1, 20])
@pytest.mark.parametrize("block", [13, 8192])
def test_it_is_exact(
    latents: list[np.ndarray],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    power: int,
    apart: int,
    block: int,
) -> None:
    monkeypatch.setattr(neighbours, "FRAMES_PER_READ", block)
    rng = np.random.default_rng(1)
    queries = np.stack([latents[0][150] + 0.003 * rng.normal(size=5), latents[2][3], np.full(5, 999.0)]).astype(
        np.float32
    )
    for query, moments in zip(queries, nearest(data, queries, 6, metric=metric, apart=apart), strict=True):
        wanted = _by_hand(latents, query.astype(float), 6, power, apart)
        assert [(moment.episode, moment.frame) for moment in moments] == wanted
    itself = nearest(data, latents[2][3], 1, metric=metric)[0][0]
    assert (itself.episode, itself.frame, itself.distance) == (2, 3, 0.0)


def test_fewer_come_where_there_are_fewer(data: Path, latents: list[np.ndarray]) -> None:
    assert len(nearest(data, latents[0][0], 10_000)[0]) == 427
    assert len(nearest(data, latents[0][0], 10, apart=1000)[0]) == 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """60,000 latents of 1,024 numbers, 240 MB as float32, are searched in a fraction of that."""
    rng = np.random.default_rng(0)
    episode = {"latents": rng.normal(size=(20_000, 1024)).astype(np.float16)}
    data = write_latents(tmp_path / "data", [episode] * 3, dtype="float16")
    code = (
        "import pathlib, sys, numpy as np\n"
        "from vpt_gym.offline import nearest\n"
        "nearest(sys.argv[2], np.zeros(1024, np.float32), 1)\n"  # torch's own memory, and all imports
        "def peak():\n"
        "    return int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "start = peak()\n"
        "nearest(sys.argv[1], np.zeros((2, 1024), np.float32), 8)\n"
        "print((peak() - start) / 1024)\n"
    )
    few = write_latents(tmp_path / "few", [{"latents": episode["latents"][:10]}], dtype="float16")
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(few)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert float(done.stdout) < 150, "MB more than for ten latents"


def test_the_contact_sheet_shows_the_frames(tmp_path: Path) -> None:
    encoder = small_encoder()
    frames = [noise(9, seed=1), noise(12, seed=2)]
    film = write_film(tmp_path / "a.mp4", frames[0])
    episode = write_episode(tmp_path / "b.npz", frames[1], first=np.isin(np.arange(12), (0, 5)))
    encode([film, episode], tmp_path / "latents", encoder)
    with LatentDataset(tmp_path / "latents") as dataset:
        moments = [Moment(2, 3, 0.0), Moment(1, 4, 0.0), Moment(2, 3, 0.0), Moment(0, 8, 0.0)]
        pictures = pictures_of(dataset, moments)
        for picture, wanted in zip(pictures, (frames[1][8], frames[1][4], frames[1][8]), strict=False):
            np.testing.assert_array_equal(picture, wanted)
        assert np.abs(pictures[3].astype(int) - frames[0][8]).mean() < 20, "a film loses a little"
        query = dataset.read(1, ["latents"], 2, 3)[0]
        found = nearest(dataset, query, 3)
        assert (found[0][0].episode, found[0][0].frame) == (1, 2)
        contact_sheet(dataset, [Moment(1, 2, 0.0)], found, tmp_path / "sheet.png")
        assert (tmp_path / "sheet.png").stat().st_size > 10_000
        write_film(film, frames[0][::-1])
        with pytest.raises(RecordingError, match=r"put the\s+original back"):
            pictures_of(dataset, moments)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A dataset of an encoder that can be loaded again, and the frames [9, H, W, 3] of its second recording."""
    folder = tmp_path_factory.mktemp("played")
    frames = [noise(9, seed=1), noise(9, seed=2)]
    for place, each in enumerate(frames):
        write_episode(folder / f"{place}.npz", each)
    encode(sorted(folder.glob("*.npz")), folder / "latents", "random:tiny?seed=3")
    return folder / "latents", frames[1]


def test_a_picture_is_found_by_the_history_that_it_is_seen_with(
    played: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, frames = played
    files = [tmp_path / f"{place}.png" for place in range(4)]
    for file, frame in zip(files, frames, strict=False):
        Image.fromarray(frame).save(file)
    history = [argument for file in files for argument in ("--frame", str(file))]
    sheet = tmp_path / "sheet.png"
    assert main(["nearest", str(data), *history, "--at", "0:5", "--k", "3", "--apart", "1", "--out", str(sheet)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "3.png"
    place, distance, name = lines[5].split()
    assert (place, name) == ("1:3", "1.npz")
    assert float(distance) < 1e-3, "the latent is the dataset's own"
    with Image.open(sheet) as picture:
        width, height = picture.size
    assert width > 1.5 * height, "two rows of one that was looked for and three that were found"

    with LatentDataset(data) as dataset:
        pictures = [read_picture(file) for file in files]
        itself, alone = (latent_of_pictures(dataset, each) for each in (pictures, pictures[-1:]))
        np.testing.assert_allclose(itself, dataset.read(1, ["latents"], 3, 4)[0][0], atol=1e-4)
        assert np.abs(alone - itself).max() > 1e-3, "without its history a picture has another latent"
        again = latent_of_pictures(dataset, pictures, encoder="random:tiny?seed=3")
        np.testing.assert_array_equal(again, itself)


def test_pictures_that_are_refused(
    played: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, frames = played
    good, text, cut = tmp_path / "good.jpg", tmp_path / "text.png", tmp_path / "cut.png"
    Image.fromarray(frames[0]).convert("L").save(good)
    text.write_text("no picture")
    Image.fromarray(frames[0]).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    assert main(["nearest", str(data), "--frame", str(good)]) == 0, "grey is a picture too"
    for given, said in (
        ([tmp_path / "none.png"], "none.png is not there"),
        ([text], "text.png is not a picture"),
        ([cut], "cut.png is not a picture"),
        ([good, "--encoder", "random:tiny"], r"random:tiny is not the encoder that .*latents was made with"),
    ):
        capsys.readouterr()
        assert main(["nearest", str(data), "--frame", *map(str, given)]) == 1
        assert re.search(said, " ".join(capsys.readouterr().err.split()))
    for arguments in ([], ["--at", "0:0", "--encoder", "random:tiny"]):
        with pytest.raises(SystemExit, match="2"):
            main(["nearest", str(data), *arguments])


def test_refused(data: Path) -> None:
    with pytest.raises(OptionError, match=r"\[Q, 5\], as .* holds them, but \(1, 4\) came"):
        nearest(data, np.zeros(4, np.float32))
    with pytest.raises(OptionError, match="finite"):
        nearest(data, np.full(5, np.nan, np.float32))
    with pytest.raises(OptionError, match="metric must be one of l2, l1"):
        nearest(data, np.zeros(5, np.float32), metric="cosine")
    with pytest.raises(OptionError, match="k must be"):
        nearest(data, np.zeros(5, np.float32), 0)
    with pytest.raises(RecordingError, match="no dataset of latents"):
        nearest(data.parent, np.zeros(5, np.float32))
