"""Which way a network is computed: what is refused, what is chosen, and that a faster way must first be right."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.network import encoder_of, random_net
from tests.support.scripted import quick_encoder
from vpt_gym import load_encoder
from vpt_gym.errors import OptionError
from vpt_gym.nn import VPTNet, accelerate, choices, cuda, trial
from vpt_gym.nn.accelerate import BACKENDS, Backend, ByFrames
from vpt_gym.nn.attention import Block, attend_single
from vpt_gym.nn.cnn import FrameEncoder

MODULE = sys.modules["vpt_gym.nn.accelerate"]
PLAIN = BACKENDS["cpu"][0]


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder of the test's own, and an empty memory of choices."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choices, "_of_process", {})
    with torch.no_grad():
        yield


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts one way of the test's own, `planted`, beside the network as it is defined."""

    def plant(
        frames: Callable[[VPTNet], nn.Module] | None = None, block: Callable[[Block], None] | None = None
    ) -> None:
        entry = Backend("planted", "planted convolutions", "planted matrices", frames=frames, block=block)
        monkeypatch.setattr(MODULE, "BACKENDS", {"cpu": (PLAIN, entry)})

    return plant


@pytest.fixture
def planted_is_fast(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times out of the test's head: the other way always wins. Returns the sizes that were timed."""
    sizes: list[int] = []

    def times(ways: dict[str, object], size: int, device: torch.device) -> dict[str, float]:
        del device
        sizes.append(size)
        return {name: 1.0 if name == "plain" else 0.9 for name in ways}

    monkeypatch.setattr(trial, "_times", times)
    return sizes


class Altered(nn.Module):
    """The network's own convolutional half, whose vectors something is done to."""

    def __init__(self, net: VPTNet, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.own, self.change = net.cnn, change

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        return self.change(self.own(frames_nhwc))


def wrong_by_one_per_cent(vectors: Tensor) -> Tensor:
    return vectors * 1.01


def not_a_number(vectors: Tensor) -> Tensor:
    vectors[-1, 0] = float("nan")
    return vectors


def wrong_in_the_third_frame(vectors: Tensor) -> Tensor:
    return torch.cat([vectors[:2], vectors[2:].flip(1)])


def too_few(vectors: Tensor) -> Tensor:
    return vectors[:, 1:]


def raising(error: Exception) -> Callable[[Tensor], Tensor]:
    def change(_: Tensor) -> Tensor:
        raise error

    return change


def ignores_first(block: Block) -> None:
    def step(*given: object) -> Tensor:
        *rest, window = given
        everything = torch.where(window.age_btk < 4, True, window.visible_btk)
        return attend_single(*rest, type(window)(**{**vars(window), "visible_btk": everything}))

    block.attention.single_step = step


def reads_what_it_may_not_see(block: Block) -> None:
    def step(*given: Tensor) -> Tensor:
        return attend_single(*given) + 0 * given[6].sum()

    block.attention.single_step = step


def forgets_to_write(block: Block) -> None:
    def step(*given: Tensor) -> Tensor:
        keys_rhmd = given[5].clone()
        mixed_bhd = attend_single(*given)
        given[5].copy_(keys_rhmd)
        return mixed_bhd

    block.attention.single_step = step


def breaks_in_the_making(_: Block) -> None:
    raise ImportError("no such library")


class TestProof:
    @pytest.mark.usefixtures("planted_is_fast")
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                wrong_by_one_per_cent,
                "it differs from the network as it is defined by 0.01 of the largest number, and 0.001",
            ),
            (not_a_number, "it differs from the network as it is defined by nan"),
            (wrong_in_the_third_frame, "it differs from the network"),
            (too_few, "it gives [1, 63] numbers where [1, 64] are due"),
            (raising(RuntimeError("out of\nmemory")), "it fails (out of memory)"),
            (raising(ZeroDivisionError()), "it fails (ZeroDivisionError)"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_frames_that_are_wrong(
        self,
        change: Callable[[Tensor], Tensor],
        said: str,
        table: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Left out with one line; the network is computed as it is defined."""
        table(frames=lambda net: Altered(net, change))
        net = random_net()
        with caplog.at_level(logging.WARNING, "vpt_gym"):
            assert accelerate(net, "float32") == "torch's own operators"
        (record,) = caplog.records
        assert record.getMessage().startswith(
            "backend='planted' is left out, and the network is computed without it, with the same latents: " + said
        )
        assert isinstance(net.cnn, FrameEncoder)
        with pytest.raises(OptionError, match="backend='planted' cannot be used here: it"):
            accelerate(random_net(), "float32", "planted")

    @pytest.mark.usefixtures("planted_is_fast")
    @pytest.mark.parametrize(
        "fault", [ignores_first, reads_what_it_may_not_see, forgets_to_write, breaks_in_the_making]
    )
    def test_blocks_that_are_wrong(
        self, fault: Callable[[Block], None], table: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        table(block=fault)
        net = random_net()
        with caplog.at_level(logging.WARNING, "vpt_gym"):
            assert accelerate(net, "float32") == "torch's own operators"
        assert len(caplog.records) == 1
        assert all(block.attention.single_step is attend_single for block in net.blocks)
        assert net.state_dict().keys() == random_net().state_dict().keys()
        with pytest.raises(OptionError, match="backend='planted' cannot be used here"):
            accelerate(random_net(), "float32", "planted")

    @pytest.mark.parametrize("name", ["packed", "winograd"])
    def test_ours_pass(self, name: str) -> None:
        if BACKENDS["cpu"][1].unavailable(random_net()) is not None:
            pytest.skip("oneDNN is not here")
        assert "packed matrices" in accelerate(random_net(), "float32", name)


class TestChoice:
    def test_by_frames(self, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        """What is faster for one frame, and what for more, takes turns."""
        calls: list[int] = []

        def counted(vectors: Tensor) -> Tensor:
            calls.append(len(vectors))
            return vectors

        def times(ways: dict[str, object], size: int, device: torch.device) -> dict[str, float]:
            del device
            return {name: 1 + 0.1 * ((name == "plain") == (size > 2)) for name in ways}

        monkeypatch.setattr(trial, "_times", times)
        table(frames=lambda net: Altered(net, counted))
        net = random_net()
        said = accelerate(net, "float32")
        assert said == "torch's convolutions up to 2 frames, planted convolutions beyond, torch's matrices"
        assert isinstance(net.cnn, ByFrames)
        calls.clear()
        for count in (1, 2, 3, 4, 8, 9, 30):
            net.cnn(torch.zeros(count, 128, 128, 3, dtype=torch.uint8))
        assert calls == [3, 4, 8, 9, 30]

    def test_the_slow_are_not_tried_with_more(
        self, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []

        def counted(vectors: Tensor) -> Tensor:
            calls.append(len(vectors))
            return vectors

        monkeypatch.setattr(trial, "_times", lambda ways, *_: {name: 1.0 if name == "plain" else 1.6 for name in ways})
        table(frames=lambda net: Altered(net, counted))
        assert accelerate(random_net(), "float32") == "torch's own operators"
        assert calls == [1]

    def test_overall_every_size_counts_the_same(self) -> None:
        result = trial.Trial({1: {"plain": 1.0, "other": 0.5}, 2: {"plain": 10.0, "other": 11.0}})
        assert result.overall() == "other"
        assert result.by_size() == ((1, "other"), (2, "plain"))

    def test_what_hardly_differs_says_nothing(self) -> None:
        result = trial.Trial({1: {"plain": 1.0, "other": 1.04}})
        assert (result.overall(), result.by_size()) == ("other", ((1, "other"),))
        result = trial.Trial({1: {"plain": 1.0, "other": 1.06}})
        assert (result.overall(), result.by_size()) == ("plain", ((1, "plain"),))

    def test_names(self) -> None:
        with pytest.raises(
            OptionError, match="backend must be one of auto, plain, packed, winograd, triton, not 'fast'"
        ):
            accelerate(random_net(), "float32", "fast")
        with pytest.raises(
            OptionError, match="backend='triton' is not for cpu: there it is auto or one of plain, packed"
        ):
            accelerate(random_net(), "float32", "triton")

    def test_a_reason_known_beforehand(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        entry = Backend("planted", "", "", lambda net: f"planted for {net.dtype}")
        monkeypatch.setattr(MODULE, "BACKENDS", {"cpu": (PLAIN, entry)})
        with caplog.at_level(logging.WARNING, "vpt_gym"):
            slow = encoder_of(random_net(), fast=True)
        assert [record.getMessage() for record in caplog.records] == [
            "The network is computed without backend='planted', with the same latents, but perhaps slower: "
            "planted for torch.float32."
        ]
        assert slow.backend == "torch's own operators"
        with pytest.raises(OptionError, match="cannot be used here: planted for torch"):
            accelerate(random_net(), "float32", "planted")

    def test_as_an_option_of_loading(self) -> None:
        plain = load_encoder("random:tiny", device="cpu", backend="plain")
        assert plain.backend == "torch's own operators"
        assert plain.options["backend"] == "plain"
        assert plain.network.net is not load_encoder("random:tiny", device="cpu").network.net


class TestMemoryOfChoices:
    def test_another_process_knows(
        self, table: Callable[..., None], planted_is_fast: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table(frames=lambda net: Altered(net, torch.clone))
        first = accelerate(random_net(), "float32")
        assert "planted convolutions" in first
        tried = len(planted_is_fast)
        assert accelerate(random_net(), "float32") == first
        monkeypatch.setattr(choices, "_of_process", {})
        assert accelerate(random_net(), "float32") == first
        assert len(planted_is_fast) == tried
        # Something else that speed depends on: tried anew.
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            accelerate(random_net(), "float32")
        finally:
            torch.set_num_threads(threads)
        assert len(planted_is_fast) > tried

    @pytest.mark.parametrize(
        "damage",
        [
            "",
            "{",
            "[1]",
            '{"KEY": 3}',
            '{"KEY": {"frames": [], "blocks": "plain"}}',
            '{"KEY": {"frames": [[8, "other"]], "blocks": "plain"}}',
            '{"KEY": {"frames": [[8]], "blocks": "plain"}}',
            '{"KEY": {"frames": [[8, "plain"]], "blocks": ["plain"]}}',
        ],
    )
    def test_a_damaged_file_is_written_anew(self, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
        said = accelerate(random_net(), "float32")
        whole = choices.cache_file().read_text()
        (key,) = choices._of_process
        choices.cache_file().write_text(damage.replace('"KEY"', choices.json.dumps(key)))
        monkeypatch.setattr(choices, "_of_process", {})
        monkeypatch.setattr(trial, "_times", lambda ways, *_: dict.fromkeys(ways, 1.0))
        accelerate(random_net(), "float32")
        assert said
        assert set(choices.json.loads(choices.cache_file().read_text())) == set(choices.json.loads(whole))

    def test_a_folder_that_cannot_be_written_is_no_error(
        self, tmp_path: Path, planted_is_fast: list[int], table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        table(frames=lambda net: Altered(net, torch.clone))
        said = accelerate(random_net(), "float32")
        tried = len(planted_is_fast)
        assert accelerate(random_net(), "float32") == said
        assert len(planted_is_fast) == tried

    def test_nothing_is_left_beside_the_file(self) -> None:
        accelerate(random_net(), "float32")
        assert [path.name for path in choices.cache_file().parent.iterdir()] == ["backends.json"]


def test_a_gpu_gets_kernels_that_are_proven(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A network that says it lies on a GPU, where no kernel can run: the one proof catches what a first launch raises."""
    pytest.importorskip("triton")
    monkeypatch.setattr(MODULE, "BACKENDS", {"cpu": BACKENDS["cuda"]})
    monkeypatch.setattr(cuda, "unavailable", lambda _: None, raising=False)
    net = random_net()
    with caplog.at_level(logging.WARNING, "vpt_gym"):
        assert accelerate(net, "float32") == "torch's own operators"
    assert "backend='triton' is left out" in caplog.text
    assert net.state_dict().keys() == random_net().state_dict().keys()
    assert isinstance(net.cnn, FrameEncoder)


@pytest.mark.parametrize("fast", [False, True])
def test_one_matrix_is_four(*, fast: bool) -> None:
    """Query, key, value and relation as one matrix: single steps and longer pieces give what the four give."""
    four, one = encoder_of(random_net()), encoder_of(random_net(), fast=fast)
    if not fast:
        for block in one.network.net.blocks:
            block.attention.fuse()
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    assert float((four.encode(frames) - one.encode(frames)).abs().max()) < 1e-4
    streams = [encoder.stream(2) for encoder in (four, one)]
    for step in range(3):
        expected, found = (stream.step(frames[:, step], [step == 0] * 2) for stream in streams)
        assert float((expected - found).abs().max()) < 1e-4


def test_a_step_costs_what_its_rows_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that stand still are neither seen by the convolutions nor read from the memory."""
    encoder = quick_encoder()
    seen: list[int] = []
    read: list[int] = []
    cnn, attention = encoder.network.net.cnn, encoder.network.net.blocks[0].attention
    forward, single_step = cnn.forward, attention.single_step

    def counted(frames_nhwc: torch.Tensor) -> torch.Tensor:
        seen.append(len(frames_nhwc))
        return forward(frames_nhwc)

    def watched(query_bhd: torch.Tensor, *rest: object) -> torch.Tensor:
        read.append(len(query_bhd))
        return single_step(query_bhd, *rest)

    monkeypatch.setattr(cnn, "forward", counted)
    monkeypatch.setattr(attention, "single_step", watched)
    stream = encoder.stream(6)
    frames = np.zeros((6, 16, 16, 3), np.uint8)
    stream.step(frames, [True] * 6)
    stream.step(frames[:2], [False] * 2, rows=[1, 4])
    assert seen == read == [6, 2]
