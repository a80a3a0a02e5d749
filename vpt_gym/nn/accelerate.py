"""From the network as it is defined to the network as this machine computes it fastest: the ways there are, and the choice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from vpt_gym.errors import OptionError
from vpt_gym.nn import cpu, cuda, trial
from vpt_gym.nn.attention import Attention, Block
from vpt_gym.nn.choices import Choice, Choices
from vpt_gym.nn.cnn import FrameEncoder
from vpt_gym.nn.net import VPTNet

__all__ = ["BACKENDS", "Backend", "ByFrames", "accelerate", "backend_names"]

logger = logging.getLogger("vpt_gym")

PLAIN: Final = "plain"


@dataclass(frozen=True)
class Backend:
    """One way of computing the network.

    Attributes:
        name: by which users choose it.
        frames_words: what computes the convolutional half.
        blocks_words: what computes the rest.
        unavailable: why it cannot be used for a network here, and what would help; None when nothing is known to be in the way.
        frames: makes the convolutional half beside the network's own; None keeps that.
        block: puts faster parts into a block, in place; None keeps it.
        matrix: the last layer's matrix, made anew; None keeps it.
    """

    name: str
    frames_words: str
    blocks_words: str
    unavailable: Callable[[VPTNet], str | None] = lambda _: None
    frames: Callable[[VPTNet], nn.Module] | None = None
    block: Callable[[Block], None] | None = None
    matrix: Callable[[nn.Module], nn.Module] | None = None


def _winograd(net: VPTNet) -> nn.Module:
    assert isinstance(net.cnn, FrameEncoder)
    return cpu.CPUFrameEncoder(net.cnn, net.config.frame_size)


def _triton_frames(net: VPTNet) -> nn.Module:
    assert isinstance(net.cnn, FrameEncoder)
    return cuda.TritonFrameEncoder(net.cnn)


def _triton_block(block: Block) -> None:
    block.attention.fuse()
    block.attention.single_step = cuda.attend_single


BACKENDS: Final[Mapping[str, tuple[Backend, ...]]] = MappingProxyType(
    {
        "cpu": (
            Backend(PLAIN, "torch's convolutions", "torch's matrices"),
            Backend(
                "packed",
                "torch's convolutions",
                "packed matrices",
                lambda net: cpu.unavailable(net.dtype),
                block=cpu.pack,
                matrix=cpu.packed,
            ),
            Backend(
                "winograd",
                "Winograd convolutions",
                "packed matrices",
                lambda net: cpu.unavailable(net.dtype) or cpu.not_in_tiles(net.config.frame_size),
                frames=_winograd,
                block=cpu.pack,
                matrix=cpu.packed,
            ),
        ),
        "cuda": (
            Backend(PLAIN, "cuDNN's convolutions", "torch's matrices"),
            Backend(
                "triton",
                "cuDNN's convolutions with Triton's kernels between them",
                "Triton's attention",
                lambda net: cuda.unavailable(net.device),
                frames=_triton_frames,
                block=_triton_block,
            ),
        ),
    }
)
"""The ways by device, the network as it is defined first. What a backend adds, its proof and its time on the machine admit."""


def backend_names() -> tuple[str, ...]:
    """What the option `backend` can be: `auto`, and the names in the table."""
    return ("auto", *dict.fromkeys(backend.name for table in BACKENDS.values() for backend in table))


class ByFrames(nn.Module):
    """The convolutional half, by whichever way is fastest for so many frames.

    Args:
        ways: up to how many frames, and by what; the last takes all that are more.
    """

    def __init__(self, ways: tuple[tuple[int, nn.Module], ...]) -> None:
        super().__init__()
        self._limits = [limit for limit, _ in ways]
        self.ways = nn.ModuleList(way for _, way in ways)

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> [N, hidden_size]."""
        number = next((i for i, limit in enumerate(self._limits) if len(frames_nhwc) <= limit), -1)
        vectors: Tensor = self.ways[number](frames_nhwc)
        return vectors


def accelerate(net: VPTNet, precision: str, backend: str = "auto") -> str:
    """Replaces parts of a network, in place, by those that compute the same fastest here.

    `auto` takes every way that is at hand, lets it prove that it gives the same as the network as it is defined, and times it
    (`vpt_gym.nn.trial`): the convolutional half for several numbers of frames, the blocks once, because their matrices are too
    large to be held twice. What wins is remembered for this machine (`vpt_gym.nn.choices`). A way that fails is left out with
    one line in the log.

    Args:
        net: a network as `VPTNet.from_tensors` made it.
        precision: what was asked for; a network of bfloat16 may be held in float32 where the CPU has no bfloat16.
        backend: `auto`, or a name from the table of the network's device.

    Returns:
        How the network is computed, in words.

    Raises:
        OptionError: there is no such backend, or not here, or it fails its proof here.
    """
    table = {entry.name: entry for entry in BACKENDS[net.device.type]}
    if backend not in backend_names():
        raise OptionError(f"backend must be one of {', '.join(backend_names())}, not {backend!r}.")
    if backend != "auto" and backend not in table:
        raise OptionError(
            f"backend={backend!r} is not for {net.device.type}: there it is auto or one of {', '.join(table)}."
        )
    reasons = {name: entry.unavailable(net) for name, entry in table.items()}
    if backend != "auto" and reasons[backend] is not None:
        raise OptionError(f"backend={backend!r} cannot be used here: {reasons[backend]}; use backend='auto'.")
    here = {name: entry for name, entry in table.items() if reasons[name] is None}
    for name in table.keys() - here.keys():
        logger.log(
            logging.WARNING if len(here) == 1 else logging.INFO,
            "The network is computed without backend=%r, with the same latents, but perhaps slower: %s.",
            name,
            reasons[name],
        )
    judge = _Judge(net, precision, here)
    choice = judge.chosen() if backend == "auto" else judge.named(backend)
    made = {name: judge.frames(name) for _, name in choice.frames}
    # Nothing of a way that was not chosen stays behind.
    del judge
    ways = tuple((limit, made[name]) for limit, name in choice.frames)
    net.cnn = ways[0][1] if len(ways) == 1 else ByFrames(ways)
    blocks = table[choice.blocks]
    for block in net.blocks:
        assert isinstance(block, Block)
        if blocks.block is not None:
            blocks.block(block)
    if blocks.matrix is not None:
        net.last = blocks.matrix(net.last)
    return _words(table, choice) + ("" if precision != "bfloat16" or net.dtype == torch.bfloat16 else ", in float32")


class _Judge:
    """Lets the ways that are at hand prove themselves on a network, and picks."""

    def __init__(self, net: VPTNet, precision: str, here: Mapping[str, Backend]) -> None:
        self._net, self._precision, self._here = net, precision, here
        self._made: dict[str, nn.Module] = {}

    def frames(self, name: str) -> nn.Module:
        """The convolutional half by this way, made once."""
        make = self._here[name].frames
        if make is None:
            return self._net.cnn
        if name not in self._made:
            self._made[name] = make(self._net)
        return self._made[name]

    def named(self, name: str) -> Choice:
        """One way for everything, if it proves itself.

        Raises:
            OptionError: it does not.
        """
        entry, trials = self._here[name], []
        if entry.frames is not None:
            trials.append(trial.of_frames(self._net, self._precision, {name: partial(self.frames, name)}, quick=True))
        if entry.block is not None:
            trials.append(trial.of_blocks(self._net, self._precision, {name: partial(self._block, name)}, quick=True))
        for result in trials:
            if name in result.refused:
                raise OptionError(f"backend={name!r} cannot be used here: {result.refused[name]}; use backend='auto'.")
        return Choice(((trial.SIZES[-1], name),), name)

    def chosen(self) -> Choice:
        """The fastest ways, from what is remembered or by trial."""
        choices = Choices(self._net, self._precision, tuple(self._here))
        known = choices.recall()
        if known is not None:
            return known
        frames = {name: partial(self.frames, name) for name, entry in self._here.items() if entry.frames is not None}
        # Backends that do the same to a block are tried once.
        by_block = {entry.block: name for name, entry in reversed(tuple(self._here.items())) if entry.block is not None}
        blocks = {name: partial(self._block, name) for name in by_block.values()}
        of_frames = trial.of_frames(self._net, self._precision, frames)
        of_blocks = trial.of_blocks(self._net, self._precision, blocks)
        for name, reason in {**of_blocks.refused, **of_frames.refused}.items():
            logger.warning(
                "backend=%r is left out, and the network is computed without it, with the same latents: %s.",
                name,
                reason,
            )
        choice = Choice(of_frames.by_size(), of_blocks.overall())
        choices.remember(choice)
        return choice

    def _block(self, name: str) -> Block:
        """The first block by this way, beside the network's own."""
        make, own = self._here[name].block, self._net.blocks[0]
        assert make is not None
        assert isinstance(own, Block)
        with torch.device("meta"):
            twin = Block(self._net.config)
            twin.attention = Attention(self._net.config)
        for mine, theirs in ((twin, own), (twin.attention, own.attention)):
            for part, module in theirs.named_children():
                if part != "attention":
                    setattr(mine, part, module)
        twin.attention.relation_basis = own.attention.relation_basis
        make(twin)
        return twin


def _words(table: Mapping[str, Backend], choice: Choice) -> str:
    if {name for _, name in choice.frames} == {choice.blocks} == {PLAIN}:
        return "torch's own operators"
    words: list[tuple[int, str]] = []
    for limit, name in choice.frames:
        said = table[name].frames_words
        if words and words[-1][1] == said:
            words.pop()
        words.append((limit, said))
    parts = [f"{said} up to {limit} frame{'s' * (limit > 1)}" for limit, said in words[:-1]]
    parts.append(words[-1][1] + " beyond" * (len(words) > 1))
    return ", ".join([*parts, table[choice.blocks].blocks_words])
