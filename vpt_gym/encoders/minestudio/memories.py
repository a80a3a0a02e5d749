"""The memory of N rows: what every one offers to a stream, and the one that the policy's own forward moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vpt_gym.encoders.minestudio.conditions import kind_of
from vpt_gym.encoders.minestudio.forward import computing
from vpt_gym.encoders.minestudio.kinds import Kind
from vpt_gym.encoders.minestudio.states import Tree, copied, join, signature, split
from vpt_gym.errors import VPTGymError

__all__ = ["Entries", "PolicyMemory", "RowMemory", "check_tensors"]

Entries = Mapping[str, Any]


class RowMemory(Protocol):
    """The memory of N rows, some of which a step moves; a step that fails moves none."""

    def step(self, seen: dict[str, Tensor], opens_b: Tensor, rows: Sequence[int], entries: Sequence[Entries]) -> Tensor:
        """Moves n rows on by one frame.

        Args:
            seen: `image`, uint8 [n, 1, size, size, 3], and what else is read, [n, 1, ...]; on the CPU or the device.
            opens_b: bool [n] on the CPU, where the frame opens an episode.
            rows: the n rows.
            entries: of the condition of each of them.

        Returns:
            Latents, float32 [n, latent_size] on the device, fresh.
        """

    def state_dict(self) -> dict[str, Any]:
        """A copy of the memory."""

    def load_state_dict(self, state: object, running: Sequence[Entries | None]) -> None:
        """Takes over a copy of what `state_dict` gave.

        Args:
            state: what it gave.
            running: entries of the condition of each row that is in an episode, None for the others.

        Raises:
            VPTGymError: it gave no such thing; the memory is as it was.
        """


def check_tensors(state: object, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a memory's state; raises VPTGymError unless they are of the names, dtypes and shapes of `mine`."""
    given = state if isinstance(state, Mapping) else {}
    wrong = [name for name, tensor in mine.items() if not _alike(given.get(name), tensor)]
    if wrong:
        tensor = mine[wrong[0]]
        raise VPTGymError(
            f"A state's memory has {wrong[0]}, {tensor.dtype} of shape {tuple(tensor.shape)}, but {_told(given.get(wrong[0]))} "
            "came; load what state_dict gave."
        )
    return {name: given[name] for name in mine}


def _alike(value: object, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dtype == tensor.dtype and value.shape == tensor.shape


def _told(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


class PolicyMemory:
    """A state of its own for each row, in whatever form the policy has it; rows of one form share a forward.

    Source: `MinePolicy.get_action` of MineStudio 1.1.6, which resets by handing in a fresh state.
    """

    def __init__(self, kind: Kind, device: torch.device, num_envs: int) -> None:
        self._kind, self._device = kind, device
        self._states: list[Tree] = [None] * num_envs

    def step(self, seen: dict[str, Tensor], opens_b: Tensor, rows: Sequence[int], entries: Sequence[Entries]) -> Tensor:
        """See `RowMemory`."""
        kind = self._kind
        with computing(kind.policy, self._device):
            on_device = {key: value.to(self._device) for key, value in seen.items()}
            states = [
                self._opening(entry) if opens else self._states[row]
                for row, opens, entry in zip(rows, opens_b.tolist(), entries, strict=True)
            ]
            together: dict[Any, list[int]] = {}
            for position, (state, entry) in enumerate(zip(states, entries, strict=True)):
                together.setdefault((signature(state), kind_of(entry)), []).append(position)
            latents_bc = torch.empty((len(rows), kind.latent_size), device=self._device)
            for positions in together.values():
                chosen = {key: value[positions] for key, value in on_device.items()}
                made_bc, state = kind.forward(
                    chosen, join([states[position] for position in positions]), [entries[i] for i in positions]
                )
                latents_bc[positions] = made_bc
                for position, own in zip(positions, split(state, len(positions), kind.name), strict=True):
                    states[position] = own
        # Last, when nothing can fail any more.
        for row, state in zip(rows, states, strict=True):
            self._states[row] = state
        return latents_bc

    def _opening(self, entries: Entries) -> Tree:
        (state,) = split(self._kind.initial_state(entries), 1, self._kind.name)
        return copied(state, device=self._device)

    def state_dict(self) -> dict[str, Any]:
        """See `RowMemory`."""
        return {"rows": [copied(state) for state in self._states]}

    def load_state_dict(self, state: object, running: Sequence[Entries | None]) -> None:
        """See `RowMemory`."""
        given = state.get("rows") if isinstance(state, Mapping) else None
        if not isinstance(given, (list, tuple)) or len(given) != len(self._states):
            raise VPTGymError(
                f"A state's memory is a dict whose 'rows' has one entry for each of the {len(self._states)} rows, as "
                f"state_dict gives it, but {state if given is None else given!r:.200} came."
            )
        states: list[Tree] = []
        for own, entries in zip(given, running, strict=True):
            (row,) = split(own, 1, self._kind.name)
            states.append(copied(row, device=self._device))
            if entries is not None and self._kind.keeps_form:
                with computing(self._kind.policy, self._device):
                    opening = self._opening(entries)
                if signature(opening) != signature(row):
                    raise VPTGymError(
                        f"The memory of row {len(states) - 1} is not of the form and shapes of {self._kind.name}'s state; "
                        "load what state_dict gave."
                    )
        self._states = states
