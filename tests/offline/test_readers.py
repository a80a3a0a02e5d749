"""Every kind of recording is read as those who write it read it."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from packaging.version import Version

from tests.offline.material import noise, require_offline, small_encoder, write_film
from tests.support.frames import MinecraftVideos
from tests.support.minestudio import require_minestudio
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.errors import RecordingError
from vpt_gym.offline import keyboard
from vpt_gym.offline.plan import EncodingConfig
from vpt_gym.offline.recordings import ACTED, IN_LOSS, Recording

require_offline()

from vpt_gym.offline import LatentDataset, encode  # noqa: E402 - needs the extra
from vpt_gym.offline.readers import find_recordings  # noqa: E402


def _refused(name: str, error: RecordingError) -> None:
    raise error


def _all(recording: Recording, length: int = 7) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    chunks = list(recording.chunks(length))
    assert all(len(chunk) == length for chunk in chunks[:-1]) or recording.path.is_dir()
    assert [bool(flag) for chunk in chunks for flag in chunk.first] == [True] + [False] * (sum(map(len, chunks)) - 1)
    names = chunks[0].columns
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in names}
    return np.concatenate([chunk.frames for chunk in chunks]), columns


def _minestudio(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of MineStudio's data code, which imports a package for augmentation that reading never calls."""
    require_minestudio()
    monkeypatch.setitem(sys.modules, "albumentations", types.ModuleType("albumentations"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd strings, a file left open
        return import_minestudio(f"minestudio.{name}")


def _keys(count: int, seed: int = 0) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    keys = {key: rng.integers(0, 2, count) * (rng.random(count) < 0.5) for key in keyboard.KEYS}
    camera = rng.normal(0, 6, (count, 2)) * (rng.random((count, 1)) < 0.7)
    keys["inventory"] = (rng.random(count) < 0.1).astype(int)
    return keys, camera


def test_the_keyboard_is_vpts(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = _minestudio("utils.vpt_lib.action_mapping", monkeypatch).CameraHierarchicalMapping(11)
    actions = _minestudio("utils.vpt_lib.actions", monkeypatch)
    transformer = actions.ActionTransformer(
        camera_binsize=2, camera_maxval=10, camera_mu=10, camera_quantization_scheme="mu_law"
    )
    keys, camera = _keys(2000)
    theirs = mapping.from_factored(transformer.env2policy({**keys, "camera": camera}))
    ours = keyboard.from_keys(keys, camera)
    np.testing.assert_array_equal(ours, np.concatenate([theirs["buttons"], theirs["camera"]], axis=1))
    assert (keyboard.BUTTONS, keyboard.CAMERAS) == (8641, 121)
    every = np.arange(8641)
    factored = mapping.to_factored({"buttons": every[:, None], "camera": np.full((8641, 1), 60)})["buttons"]
    names = actions.Buttons.ALL
    pressed = keyboard.pressed(every)
    np.testing.assert_array_equal(np.stack([pressed[name] for name in names], axis=1), factored.astype(bool))
    bins = np.stack(np.divmod(np.arange(121), 11), axis=1)
    np.testing.assert_allclose(keyboard.turned(np.arange(121)), transformer.undiscretize_camera(bins), atol=1e-12)


def _step(**changes: Any) -> dict[str, Any]:
    mouse = {"x": 640.0, "y": 360.0, "dx": 0.0, "dy": 0.0, "buttons": [], "newButtons": []}
    step: dict[str, Any] = {"mouse": mouse, "keyboard": {"keys": []}, "hotbar": 0, "isGuiOpen": False}
    step["mouse"] |= changes.pop("mouse", {})
    step["keyboard"]["keys"] = changes.pop("keys", [])
    return {**step, **changes}


STEPS = [
    _step(mouse={"buttons": [0], "newButtons": [0]}),  # stuck
    _step(mouse={"buttons": [0]}, keys=["key.keyboard.w", "key.keyboard.escape"]),  # stuck still
    _step(mouse={"buttons": [0]}),  # stuck, and so null
    _step(mouse={"buttons": [0, 1], "newButtons": [0]}),  # pressed
    _step(mouse={"buttons": [0], "dx": 20.0, "dy": -5.0}),
    _step(hotbar=3),  # by the wheel
    _step(hotbar=3),
    _step(hotbar=3, isGuiOpen=True, mouse={"x": 20.0, "y": 40.0}),
    _step(hotbar=3, isGuiOpen=True, mouse={"x": 1279.0, "y": 719.0}, keys=["key.keyboard.e"]),
]


@pytest.fixture
def contractor(tmp_path: Path) -> Path:
    """A recording of OpenAI's kind: a film of one grey, and what was pressed."""
    film = write_film(tmp_path / "Player1-abc.mp4", np.full((9, 360, 640, 3), 90, np.uint8))
    film.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, STEPS)), encoding="utf-8")
    return film


def test_contractors(contractor: Path) -> None:
    recording = next(find_recordings(contractor, _refused))
    assert recording.action_space == gym.spaces.MultiDiscrete([8641, 121])
    frames, columns = _all(recording)
    down = keyboard.pressed(columns["actions"][:, 0])
    assert down["attack"].tolist() == [False, False, False, True, True, False, False, False, False], "stuck at first"
    assert down["forward"].tolist() == [place == 1 for place in range(9)]
    assert down["use"].tolist() == [place == 3 for place in range(9)]
    assert down["hotbar.4"].tolist() == [place == 5 for place in range(9)], "the wheel presses a key, once"
    assert down["inventory"].tolist() == [place == 8 for place in range(9)]
    assert columns[IN_LOSS].tolist() == [False, True, False, True, True, True, False, False, True]
    assert (columns["actions"][:, 1] != 60).tolist() == [place == 4 for place in range(9)]
    assert columns["gui_open"].tolist() == [False] * 7 + [True] * 2
    drawn = (frames.astype(int) - 90).__abs__().max(axis=3) > 60
    assert not drawn[:7].any(), "no cursor where no menu is open"
    assert np.argwhere(drawn[7]).min(axis=0).tolist() == [20, 10], "its tip at half the screen's place"
    assert drawn[7].sum() > 80
    assert drawn[8].any(), "cut off at the edge"


def test_contractors_actions_are_minestudios(contractor: Path, tmp_path: Path) -> None:
    require_minestudio()
    found = importlib.util.find_spec("minestudio")
    assert found is not None
    # Alone, without the package around it, which takes half a minute to import.
    path = Path(str(found.submodule_search_locations[0])) / "data/minecraft/tools/process_action_openai.py"
    spec = importlib.util.spec_from_file_location("process_action_openai", path)
    assert spec is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    names = {"no": 0, "name": "a", "json_path": contractor.with_suffix(".jsonl"), "action_path": tmp_path / "a.pkl"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves its file open
        assert tool.run(names)
    with (tmp_path / "a.pkl").open("rb") as file:
        theirs = pickle.load(file)
    wanted = keyboard.from_keys(theirs, theirs["camera"])
    _, columns = _all(next(find_recordings(contractor, _refused)))
    np.testing.assert_array_equal(columns["actions"], wanted)


def test_contractors_film_and_actions_of_different_length(contractor: Path) -> None:
    path = contractor.with_suffix(".jsonl")
    path.write_text("\n".join(map(json.dumps, STEPS[:4])), encoding="utf-8")
    assert len(_all(next(find_recordings(contractor, _refused)), 3)[0]) == 4
    path.write_text("\n".join(map(json.dumps, STEPS * 2)), encoding="utf-8")
    assert len(_all(next(find_recordings(contractor, _refused)), 3)[0]) == 9
    path.write_text('{"mouse": ', encoding="utf-8")
    with pytest.raises(RecordingError, match=r"jsonl cannot be read"):
        list(next(find_recordings(contractor, _refused)).chunks(3))


def test_null_actions_advance_the_memory_and_are_left_out_of_the_loss(contractor: Path, tmp_path: Path) -> None:
    encoder = small_encoder()
    encode(contractor, tmp_path / "latents", encoder)
    frames, _ = _all(next(find_recordings(contractor, _refused)))
    with LatentDataset(tmp_path / "latents") as dataset:
        latents, counts, actions = dataset.read(0, ["latents", IN_LOSS, "actions"])
    np.testing.assert_allclose(latents, encoder.encode(frames[None])[0].numpy(), atol=1e-4)
    assert counts.tolist() == [False, True, False, True, True, True, False, False, True]
    assert actions.shape == (8, 2)


@pytest.fixture
def trajectories(tmp_path: Path, real_frames: MinecraftVideos, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of MineStudio's: its converters' own bytes, in LMDB files as its worker writes them."""
    import lmdb

    image = _minestudio("data.minecraft.callbacks.image", monkeypatch)
    action = _minestudio("data.minecraft.callbacks.action", monkeypatch)
    root = tmp_path / "dataset"
    kinds: dict[str, list[Any]] = {"video": [], "action": []}
    for place, name in enumerate(("b-1", "a-2")):
        film = write_film(tmp_path / f"{name}.mp4", real_frames.raw(9, rows=2)[place])
        keys, camera = _keys(9, place)
        pressed = {key: np.asarray(values) for key, values in keys.items()}
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps({**pressed, "camera": camera}))
        images = image.ImageConvertCallback(input_dirs=[], chunk_size=4, thread_pool=1)
        kinds["video"].append((name, images.do_convert(name, [None], [film])))
        actions = object.__new__(action.ActionConvertCallback)  # whose constructor fails, in 1.1.6
        actions.chunk_size = 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it leaves its file open
            kinds["action"].append((name, actions.do_convert(name, [None], [tmp_path / f"{name}.pkl"])))
    for kind, episodes in kinds.items():
        folder = root / kind / "part-1"
        folder.mkdir(parents=True)
        base = lmdb.open(str(folder), map_size=1 << 24)
        infos = []
        with base.begin(write=True) as transaction:
            for number, (name, (places, contents)) in enumerate(episodes):
                for key, content in zip(places, contents, strict=True):
                    transaction.put(str((number, key)).encode(), content)
                infos.append({"episode": name, "episode_idx": number, "num_frames": 4 * len(places)})
            facts = {"size__": 4, "infos__": infos}
            for key, value in facts.items():
                transaction.put(f"__chunk_{key}".encode(), pickle.dumps(value))
            transaction.put(b"__num_episodes__", pickle.dumps(2))
            transaction.put(b"__num_total_frames__", pickle.dumps(16))
        base.close()
    return root


def test_trajectories_are_read_as_minestudio_reads_them(trajectories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = _minestudio("data.minecraft.core", monkeypatch)
    callbacks = _minestudio("data.minecraft.callbacks", monkeypatch)
    recordings = list(find_recordings(trajectories, _refused))
    assert [recording.name for recording in recordings] == ["a-2", "b-1"]
    # Side by side, as the rows of a batch read them; and before MineStudio, since LMDB opens a file once.
    side_by_side = list(zip(*[recording.chunks(4) for recording in recordings], strict=True))
    assert len(side_by_side) == 2
    ours = [_all(recording, 3) for recording in recordings]
    folders = sorted(trajectories.iterdir())
    images = core.ModalKernel(folders, callbacks.ImageKernelCallback(frame_width=224, frame_height=224, num_workers=1))
    actions = core.ModalKernel(folders, callbacks.ActionKernelCallback())
    for recording, (frames, columns) in zip(recordings, ours, strict=True):
        assert recording.frame_count == 8, "what does not fill a chunk MineStudio leaves out"
        theirs = images.read_frames(recording.name, 0, 8, 1)["image"]
        np.testing.assert_array_equal(frames, theirs)
        agent = actions.read_frames(recording.name, 0, 8, 1)["agent_action"]
        np.testing.assert_array_equal(columns["actions"], np.concatenate([agent["buttons"], agent["camera"]], axis=1))
    for info in (*images.episode_infos, *actions.episode_infos):
        info["lmdb_stream"].close()


def test_a_pickle_that_could_run_code_is_refused(trajectories: Path) -> None:
    import lmdb

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    base = lmdb.open(str(trajectories / "action" / "part-1"), map_size=1 << 24)
    with base.begin(write=True) as transaction:
        transaction.put(str((0, 0)).encode(), pickle.dumps({"camera": Call()}))
    base.close()
    recordings = {recording.name: recording for recording in find_recordings(trajectories, _refused)}
    with pytest.raises(RecordingError, match=r"asks for builtins\.print"):
        list(recordings["b-1"].chunks(4))
    assert len(_all(recordings["a-2"], 4)[0]) == 8


SPACES = {
    "image": gym.spaces.Box(0, 255, (40, 48, 3), np.uint8),
    "small": gym.spaces.Box(0, 255, (16, 24, 3), np.uint8),
    "channels first": gym.spaces.Box(0, 255, (3, 40, 48), np.uint8),
    "grey": gym.spaces.Box(0, 255, (40, 48), np.uint8),
}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize(
    ("kind", "jpeg"), [("image", True), ("image", False), ("small", True), ("channels first", True)]
)
def test_minari(tmp_path: Path, data_format: str, kind: str, jpeg: bool) -> None:
    """Datasets that Minari itself wrote, flat and inside a Dict."""
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    observations = gym.spaces.Dict({"pixels": SPACES[kind], "compass": gym.spaces.Box(-9, 9, (2,), np.float32)})
    actions = gym.spaces.MultiDiscrete([3, 4])
    folder = tmp_path / "set" / "data"
    folder.parent.mkdir()
    raw: dict[str, Any] = {} if jpeg else {"jpeg_encoding": False}
    if raw and Version(minari.__version__) < Version("0.5.4"):
        pytest.skip("Minari writes raw images since 0.5.4")
    storage = MinariStorage.new(folder, observations, actions, data_format=data_format, **raw)
    lengths = (6, 12)
    buffers = []
    for place, count in enumerate(lengths):
        seen = {"pixels": [], "compass": []}
        observations.seed(place)
        actions.seed(place)
        for _ in range(count):
            sample = observations.sample()
            seen["pixels"].append(sample["pixels"])
            seen["compass"].append(np.clip(sample["compass"], -9, 9))
        buffers.append(
            EpisodeBuffer(
                observations={key: np.stack(values) for key, values in seen.items()},
                actions=np.stack([actions.sample() for _ in range(count - 1)]),
                rewards=list(np.arange(count - 1.0)),
                terminations=[False] * (count - 1),
                truncations=[False] * (count - 2) + [True],
                infos={"height": np.arange(count * 1.0).tolist()},  # Minari cannot read arrays [T] from arrow
            )
        )
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "set-v0", "minari_version": minari.__version__})
    recordings = list(find_recordings(tmp_path / "set", _refused))
    assert [recording.part for recording in recordings] == [0, 1]
    assert len({recording.digest() + str(recording.part) for recording in recordings}) == 2
    theirs = list(MinariStorage.read(folder).get_episodes([0, 1]))
    for recording, buffer, episode in zip(recordings, buffers, theirs, strict=True):
        frames, columns = _all(recording, 5)
        wanted = episode["observations"]["pixels"]
        wanted = wanted.transpose(0, 2, 3, 1) if kind == "channels first" else wanted
        if wanted.dtype == object:  # Minari 0.5.3 does not read the JPEG that it wrote of small pictures
            assert frames.shape == buffer.observations["pixels"].shape
        else:
            np.testing.assert_array_equal(frames, wanted)
        np.testing.assert_allclose(columns["compass"], buffer.observations["compass"])
        np.testing.assert_array_equal(columns["height"], np.arange(len(frames)))
        np.testing.assert_array_equal(columns["actions"][:-1], buffer.actions)
        assert columns[ACTED].tolist() == [True] * (len(frames) - 1) + [False]
        np.testing.assert_array_equal(columns["truncations"][:-1], buffer.truncations)


def test_minari_without_images_is_refused(tmp_path: Path) -> None:
    from minari.dataset.minari_storage import MinariStorage

    space = gym.spaces.Box(-1, 1, (4,), np.float32)
    MinariStorage.new(tmp_path / "data", space, gym.spaces.Discrete(2))
    with pytest.raises(RecordingError, match="must be an image"):
        list(find_recordings(tmp_path, _refused))


def test_latents_are_no_recordings(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", noise(4))
    np.savez(tmp_path / "b.npz", frames=noise(4), actions=np.arange(3))
    encode(tmp_path / "b.npz", tmp_path / "latents", small_encoder(), EncodingConfig())
    with pytest.raises(RecordingError, match="must be an image"):
        list(find_recordings(tmp_path / "latents", _refused))
    assert next(find_recordings(film, _refused)).pictures([2])[2].shape == (36, 64, 3)
