"""The memory of N parallel episodes of a VPT network, moved on by their frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.encoders.base import StreamBase
from vpt_gym.encoders.inputs import as_tensor, check_flags, check_frames, check_rows, count_of
from vpt_gym.encoders.network import ROWS_PER_CHUNK, LatentNetwork, check_finite, non_finite
from vpt_gym.encoders.protocol import Flags, Frames, Rows
from vpt_gym.errors import NonFiniteLatent, VPTGymError
from vpt_gym.nn import Memory

__all__ = ["LatentStream", "check_places"]


class LatentStream(StreamBase):
    """The memory of N episodes, stepped all or some of them in one call.

    Made by `VPTEncoder.stream`. Not to be stepped from two threads, or from two CUDA streams, at once; two streams of one
    encoder may be.

    Attributes:
        network: the weights and the layer, shared.
        num_envs: N.
        fingerprint: of the encoder: which latents these are.
    """

    def __init__(self, network: LatentNetwork, num_envs: int, fingerprint: str) -> None:
        self.network = network
        self.num_envs = check_count("num_envs", num_envs)
        self.fingerprint = fingerprint
        self._memory = network.memory(self.num_envs)
        self._graphs = network.graphs(self._memory)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # A graph reads and writes the memory that it was captured with, and a copy has its own.
        self._graphs = self.network.graphs(self._memory)

    def step(self, frames: Frames, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next frame of each row.

        Args:
            frames: uint8 [n, H, W, 3], RGB, of any height and width (resized to what the network reads); array or tensor.
            first: bool [n], True where the frame opens an episode: it sees itself alone.
            rows: which n distinct rows of the N these are; None for all, in order. Other rows do not move.

        Returns:
            float32 [n, latent_size] on the encoder's device, a fresh tensor.

        Raises:
            ObservationError: frames, `first` or `rows` have the wrong dtype, shape or range.
            NonFiniteLatent: a latent is NaN or infinite. Whatever is raised, nothing has moved.
        """
        rows_b = None if rows is None else check_rows(rows, self.num_envs, "step")
        frames_nhwc = check_frames(frames, "step", ("n",))
        first_b = check_flags(first, "step", (count_of(frames_nhwc, rows_b, self.num_envs, "step"),))
        network = self.network
        if self._graphs is None:
            latents_btd, after = network.run(frames_nhwc[:, None], first_b[:, None], self._memory, rows_b=rows_b)
            with network.arithmetic():
                self._memory.move_to(after)
            return latents_btd[:, 0]
        frames_nhwc = as_tensor(frames_nhwc[:, None], network.frame_size)[:, 0]
        with network.arithmetic():
            slot_b, seen_b = self._memory.slot_b.clone(), self._memory.seen_b.clone()
            latents_bd = self._graphs.step(frames_nhwc, first_b, rows_b)
            try:
                check_finite(latents_bd, rows_b, network.precision)
            except NonFiniteLatent:
                # What was written over is a frame that no later step may see, so the places alone are the memory.
                self._memory.slot_b.copy_(slot_b)
                self._memory.seen_b.copy_(seen_b)
                raise
        return latents_bd

    def encode(self, frames: Frames, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next T frames of each row: what T steps give, to rounding, on the same memory and in far less time.

        Args:
            frames: uint8 [n, T, H, W, 3], RGB, of any height and width; array or tensor; any T >= 1.
            first: bool [n, T], True where a frame opens an episode.
            rows: which n distinct rows of the N these are; None for all, in order. Other rows do not move.

        Returns:
            float32 [n, T, latent_size] on the encoder's device, a fresh tensor.

        Raises:
            ObservationError: frames, `first` or `rows` have the wrong dtype, shape or range.
            NonFiniteLatent: a latent is NaN or infinite. Whatever is raised, nothing has moved.
        """
        rows_b = None if rows is None else check_rows(rows, self.num_envs, "encode")
        frames_bthwc = check_frames(frames, "encode", ("n", "T"))
        batch = count_of(frames_bthwc, rows_b, self.num_envs, "encode")
        count = frames_bthwc.shape[1]
        first_bt = check_flags(first, "encode", (batch, count))
        rows_b = torch.arange(batch) if rows_b is None else rows_b
        latents_btd = torch.empty(batch, count, self.network.choice.size, device=self.network.device)
        moved: list[tuple[Tensor, Memory]] = []
        for start in range(0, batch, ROWS_PER_CHUNK):
            some = slice(start, start + ROWS_PER_CHUNK)
            some_b = rows_b[some].to(self.network.device)
            with self.network.arithmetic():
                memory = self._memory.of_rows(some_b)
            at = 0
            for piece_btd in self._pieces_of(frames_bthwc[some], first_bt[some], memory, rows_b[some]):
                latents_btd[some, at : at + piece_btd.shape[1]] = piece_btd
                at += piece_btd.shape[1]
            moved.append((some_b, memory))
        # On copies until all is through, so that what fails or is interrupted in the middle has moved nothing.
        with self.network.arithmetic():
            for some_b, memory in moved:
                self._memory.put_rows(some_b, memory)
        return latents_btd

    def _pieces_of(self, frames: Frames, first_bt: Tensor, memory: Memory, rows_b: Tensor) -> Iterator[Tensor]:
        """As `LatentNetwork.pieces`; what is raised names this stream's rows."""
        try:
            yield from self.network.pieces(frames, first_bt, memory)
        except NonFiniteLatent as error:
            raise non_finite(rows_b[error.rows].tolist(), self.network.precision) from error

    def state_dict(self) -> dict[str, Any]:
        """A copy of the memory, with the encoder's fingerprint; for `load_state_dict` or `torch.save`."""
        with self.network.arithmetic():
            tensors = {name: tensor.clone() for name, tensor in self._memory.tensors().items()}
        return {"fingerprint": self.fingerprint, **tensors}

    def load_state_dict(self, state: object) -> None:
        """Takes over a copy of a memory that `state_dict` gave, of any device and floating-point type.

        Raises:
            VPTGymError: it comes from other weights or another layer, or from another number of environments, or holds what
                no memory can hold; the stream goes on as it was.
        """
        mine = self._memory.tensors()
        if not isinstance(state, Mapping) or not all(isinstance(state.get(name), Tensor) for name in mine):
            came = sorted(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise VPTGymError(
                f"A stream's state is a dict with the tensors {', '.join(mine)}, as state_dict gives it, but {came} came."
            )
        if state.get("fingerprint") != self.fingerprint:
            raise VPTGymError(
                "The state was saved by another encoder; load it with the weights and layer that it came from."
            )
        for name, tensor in mine.items():
            if state[name].shape != tensor.shape:
                raise VPTGymError(
                    f"The state's {name} has shape {tuple(state[name].shape)}, but a stream of {self.num_envs} environments "
                    f"needs {tuple(tensor.shape)}; make the stream with the number of environments that was saved."
                )
        check_places(state)
        # A copy, so that the state stays the caller's; in place, because CUDA graphs keep the tensors that they began with.
        with self.network.arithmetic():
            for name, tensor in mine.items():
                tensor.copy_(state[name])


def check_places(state: Mapping[str, Tensor]) -> None:
    """Raises VPTGymError unless rows stand within their rings, and what they hold of the running episodes is finite."""
    slots = state["keys_lbhmd"].shape[3]
    for name, largest in (("slot_b", slots - 1), ("seen_b", slots)):
        place_b = state[name]
        if place_b.dtype != torch.int64 or not bool(((place_b >= 0) & (place_b <= largest)).all()):
            raise VPTGymError(
                f"A state's {name} must be whole numbers (int64) from 0 to {largest}, but {place_b.tolist()} came; load what "
                "state_dict gave."
            )
    age_bm = (state["slot_b"][:, None] - torch.arange(slots, device=state["slot_b"].device)) % slots
    seen_bm = age_bm < state["seen_b"][:, None]
    for name in ("keys_lbhmd", "values_lbhmd"):
        ring_lbhmd = state[name]
        if not ring_lbhmd.is_floating_point():
            raise VPTGymError(f"A state's {name} must be floating-point numbers, but {ring_lbhmd.dtype} came.")
        bad_bm = ~ring_lbhmd.isfinite().all(dim=4).all(dim=2).all(dim=0)
        if bool((bad_bm & seen_bm.to(bad_bm.device)).any()):
            raise VPTGymError(
                f"A state's {name} holds NaN or infinity in a running episode; load what state_dict gave."
            )
