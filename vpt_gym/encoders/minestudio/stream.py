"""The memory of N episodes of a policy, and what each of them is told to do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.encoders.base import StreamBase
from vpt_gym.encoders.inputs import as_tensor, check_flags, check_frames, check_rows, count_of, sequences_of
from vpt_gym.encoders.minestudio.conditions import Condition
from vpt_gym.encoders.minestudio.kinds import IMAGE
from vpt_gym.encoders.protocol import Flags, Rows
from vpt_gym.errors import ObservationError, VPTGymError

if TYPE_CHECKING:
    from vpt_gym.encoders.minestudio.encoder import PolicyEncoder

__all__ = ["PolicyStream"]


class PolicyStream(StreamBase):
    """The memory of N episodes, stepped one frame at a time, all or some in one call, each under a condition of its own.

    Made by `PolicyEncoder.stream`; the wrappers keep theirs as `latent_stream`. Not to be stepped from two threads at once; two
    streams of one policy may be.

    Attributes:
        encoder: what it was made by.
        num_envs: N.
        fingerprint: of the encoder.
    """

    def __init__(self, encoder: PolicyEncoder, num_envs: int) -> None:
        self.encoder = encoder
        self.num_envs = check_count("num_envs", num_envs)
        self.fingerprint = encoder.fingerprint
        self._memory = encoder._memory(self.num_envs)
        self._begun = [False] * self.num_envs
        self._running: list[Condition | None] = [None] * self.num_envs
        self._wanted: list[Condition | None] = [encoder.condition] * self.num_envs

    def __deepcopy__(self, memo: dict[int, Any]) -> PolicyStream:
        # The memory alone: the policy behind it is shared.
        twin = self.encoder.stream(self.num_envs)
        twin.load_state_dict(self.state_dict())
        return twin

    def set_condition(self, condition: Any, rows: Rows = None) -> None:
        """Says what rows are told to do from their next episode on; the running one ends as it began.

        Args:
            condition: as `encoder_from_policy` takes it, or what `encoder.prepare_condition` made of one.
            rows: which rows; None for all.

        Raises:
            VPTGymError: the policy takes no such condition.
            ObservationError: `rows` are not distinct rows of the N.
        """
        chosen = range(self.num_envs) if rows is None else check_rows(rows, self.num_envs, "set_condition").tolist()
        prepared = self.encoder.prepare_condition(condition)
        for row in chosen:
            self._wanted[row] = prepared

    def step(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next frame of each row.

        Args:
            frames: uint8 [n, H, W, 3], RGB, of any height and width (resized to the encoder's `frame_size`); where the encoder
                `also_reads` something, a dict of `image`, which is these frames, and an array [n, ...] for each of the others.
            first: bool [n], True where the frame opens an episode: its memory is empty, and the row's condition the one last
                set.
            rows: which n distinct rows of the N these are; None for all, in order. Other rows do not move.

        Returns:
            float32 [n, latent_size] on the encoder's device, a fresh tensor.

        Raises:
            ObservationError: frames, `first`, `rows` or what else is read have the wrong dtype, shape or range.
            VPTGymError: a row has no condition, but the policy needs one; or the policy was moved or set to training mode.
                Whatever is raised, nothing has moved.
        """
        rows_b = None if rows is None else check_rows(rows, self.num_envs, "step")
        seen = self._seen(frames, rows_b)
        first_b = check_flags(first, "step", (len(seen[IMAGE]),))
        chosen: Sequence[int] = range(self.num_envs) if rows_b is None else rows_b.tolist()
        opens = [bool(flag) or not self._begun[row] for row, flag in zip(chosen, first_b.tolist(), strict=True)]
        conditions = [self._wanted[row] if new else self._running[row] for row, new in zip(chosen, opens, strict=True)]
        missing = [row for row, condition in zip(chosen, conditions, strict=True) if condition is None]
        if missing:
            raise VPTGymError(
                f"step: rows {missing} have no condition, and {self.encoder.name} needs one: give encoder_from_policy a "
                "condition=, or call set_condition on the stream (a wrapper's latent_stream) before the episode begins."
            )
        self.encoder._check_unchanged()
        entries = [condition.entries for condition in conditions if condition is not None]
        latents = self._memory.step(seen, torch.tensor(opens, device="cpu"), chosen, entries)
        for row, condition in zip(chosen, conditions, strict=True):
            self._begun[row], self._running[row] = True, condition
        return latents

    def encode(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next T frames of each row: a loop over steps of all of them.

        Args:
            frames: uint8 [n, T, H, W, 3]; a dict of `image` and [n, T, ...] for each of `also_reads`, where there are such.
            first: bool [n, T], True where a frame opens an episode.
            rows: as for `step`.

        Returns:
            float32 [n, T, latent_size] on the encoder's device.

        Raises:
            ObservationError: frames, `first`, `rows` or what else is read have the wrong dtype, shape or range.
            VPTGymError: a row has no condition, but the policy needs one. Whatever is raised, nothing has moved.
        """
        batch, count = sequences_of(frames)
        first_bt = check_flags(first, "encode", (batch, count))
        given = frames if isinstance(frames, Mapping) else {IMAGE: frames}
        if isinstance(frames, Mapping) and self.encoder.also_reads:
            given = {key: given[key] for key in (IMAGE, *self.encoder.also_reads) if key in given}
        for key, values in given.items():
            array = isinstance(values, (np.ndarray, Tensor))
            if not array or tuple(values.shape[:2]) != (batch, count):
                came = f"one of shape {tuple(values.shape)}" if array else f"a {type(values).__name__}"
                raise ObservationError(
                    f"encode: {key!r} must be an array or tensor [{batch}, {count}, ...], as many sequences and frames as the "
                    f"images, but {came} came."
                )
        before = self.state_dict()
        steps: list[Tensor] = []
        try:
            for time in range(count):
                now = {key: values[:, time] for key, values in given.items()}
                steps.append(self.step(now if isinstance(frames, Mapping) else now[IMAGE], first_bt[:, time], rows))
        except BaseException:  # Ctrl-C too
            self.load_state_dict(before)
            raise
        return torch.stack(steps, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """A copy of memory and conditions, with the encoder's fingerprint; for `load_state_dict` or `torch.save`."""
        return {
            **self._label(),
            "begun": list(self._begun),
            "running": [_entries(condition) for condition in self._running],
            "wanted": [_entries(condition) for condition in self._wanted],
            "memory": self._memory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a copy of what `state_dict` gave.

        Raises:
            VPTGymError: it comes from another policy, another network of it, or another number of environments, or is no such
                state; the stream goes on as it was.
        """
        if not isinstance(state, Mapping):
            raise VPTGymError(f"A stream's state is a dict, as state_dict gives it, but a {type(state).__name__} came.")
        label = self._label()
        keys = {*label, "begun", "running", "wanted", "memory"}
        if not keys <= set(state):
            raise VPTGymError(
                f"A stream's state is a dict with {', '.join(sorted(keys))}, as state_dict gives it, but one of "
                f"{', '.join(map(repr, state)) or 'nothing'} came."
            )
        for name, mine in label.items():
            if type(state[name]) is not type(mine) or state[name] != mine:
                raise VPTGymError(
                    f"The state's {name} is {state[name]!r}, but this stream's is {mine!r}; load it into a stream of the same "
                    "policy, network and number of environments."
                )
        begun = self._one_each(state, "begun", lambda flag: isinstance(flag, bool), "True or False")
        running, wanted = (self._conditions(state, name) for name in ("running", "wanted"))
        lacking = [row for row in range(self.num_envs) if begun[row] and running[row] is None]
        if lacking:
            raise VPTGymError(
                f"The state's rows {lacking} are in an episode without a condition; load what state_dict gave."
            )
        entries = [
            condition.entries if condition and flag else None for condition, flag in zip(running, begun, strict=True)
        ]
        # Every check is done when the memory has done its own, so that a state that is refused changes nothing.
        self._memory.load_state_dict(state["memory"], entries)
        self._begun, self._running, self._wanted = begun, running, wanted

    def _one_each(self, state: Mapping[str, Any], name: str, fits: Callable[[Any], bool], wanted: str) -> list[Any]:
        """A list of a state, one entry for each row; raises VPTGymError if it is none, or holds something else."""
        values = state[name]
        if not isinstance(values, (list, tuple)) or len(values) != self.num_envs or not all(map(fits, values)):
            raise VPTGymError(
                f"The state's {name} must be a list of {self.num_envs} entries, each {wanted}, but {values!r:.200} came; load "
                "what state_dict gave."
            )
        return list(values)

    def _conditions(self, state: Mapping[str, Any], name: str) -> list[Condition | None]:
        fingerprint, device, kind = self.encoder.fingerprint, self.encoder.device, self.encoder._kind
        rows = self._one_each(
            state,
            name,
            lambda entries: entries is None or (isinstance(entries, Mapping) and kind.fits(entries)),
            f"None or the dict of a condition of {self.encoder.name}",
        )
        return [None if entries is None else Condition(fingerprint, _copied(entries, device)) for entries in rows]

    def _label(self) -> dict[str, Any]:
        return {
            "fingerprint": self.encoder.fingerprint,
            "network": self.encoder.network,
            "num_envs": self.num_envs,
        }

    def _seen(self, frames: Any, rows_b: Tensor | None) -> dict[str, Tensor]:
        """What a step was given, checked: [n, 1, ...] each."""
        also = self.encoder.also_reads
        given = frames if isinstance(frames, Mapping) else {IMAGE: frames}
        missing = [key for key in (IMAGE, *also) if key not in given]
        if missing or (isinstance(frames, Mapping) and not also):
            came = f"a dict of {', '.join(map(repr, given))}" if isinstance(frames, Mapping) else "the frames alone"
            wanted = f"a dict of {', '.join(map(repr, (IMAGE, *also)))}" if also else "the frames alone"
            raise ObservationError(f"step: {self.encoder.name} reads {wanted}, but {came} came.")
        images = check_frames(given[IMAGE], "step", ("n",))
        count = count_of(images, rows_b, self.num_envs, "step")
        seen = {key: self.encoder._kind.also(key, given[key], count) for key in also}
        return {IMAGE: as_tensor(images[:, None], self.encoder.frame_size), **seen}


def _entries(condition: Condition | None) -> dict[str, Any] | None:
    return None if condition is None else _copied(condition.entries, None)


def _copied(entries: Mapping[str, Any], device: torch.device | None) -> dict[str, Any]:
    copies: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, Mapping):
            copies[key] = _copied(value, device)
        elif isinstance(value, Tensor):
            copies[key] = value.to(device or value.device, copy=True)
        else:
            copies[key] = copy.copy(value)
    return copies
