"""The state of a policy as a value: nested lists, tuples and dicts of tensors, one tree for each row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from vpt_gym.errors import VPTGymError

__all__ = ["Tree", "copied", "join", "signature", "split"]

Tree: TypeAlias = "Tensor | list[Tree] | tuple[Tree, ...] | dict[Any, Tree] | None"
"""A tensor has rows on axis 0. It is what MineStudio's `recursive_tensor_op` walks over."""


def signature(tree: Tree) -> Hashable:
    """Equal for two rows whose states can be put side by side in one batch: same nesting, dtypes and shapes but for axis 0."""
    if isinstance(tree, Tensor):
        return tree.dtype, tree.shape[1:]
    if isinstance(tree, dict):
        return dict, tuple((key, signature(value)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return type(tree), tuple(signature(value) for value in tree)
    if tree is None:
        return None
    raise _unknown(tree)


def join(trees: Sequence[Tree]) -> Tree:
    """One tree of all rows from trees of one signature; fresh tensors."""
    first, alike = trees[0], cast("Sequence[Any]", trees)  # of one signature: what holds for the first holds for all
    if isinstance(first, Tensor):
        return torch.cat(list(alike))
    if isinstance(first, dict):
        return {key: join([tree[key] for tree in alike]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(join(values) for values in zip(*alike, strict=True))
    return None


def split(tree: Tree, rows: int, owner: str) -> list[Tree]:
    """The tree of each row, with tensors of its own.

    They are copies: a view would keep the whole batch in memory, and a policy may return tensors that it writes to again.

    Raises:
        VPTGymError: a tensor has not one entry for each row on axis 0, or there is something else than tensors.
    """
    for tensor in _tensors(tree):
        if tensor.shape[:1] != (rows,):
            raise VPTGymError(
                f"{owner}: the state must be tensors with one entry for each of the {rows} rows on axis 0, as MineStudio's "
                f"policies have it, but one of shape {tuple(tensor.shape)} came; move the batch to the front."
            )
    return [copied(tree, slice(row, row + 1)) for row in range(rows)]


def copied(tree: Tree, rows: slice = slice(None), device: torch.device | None = None) -> Tree:
    """A copy of some rows of a tree, on another device where one is given."""
    return _mapped(tree, lambda tensor: tensor.detach()[rows].to(device or tensor.device, copy=True))


def _mapped(tree: Tree, change: Callable[[Tensor], Tensor]) -> Tree:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, change) for value in tree)
    if tree is None:
        return None
    raise _unknown(tree)


def _tensors(tree: Tree) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(tree, note)
    return found


def _unknown(tree: object) -> VPTGymError:
    return VPTGymError(
        f"A policy's state may be None, a tensor, or lists, tuples and dicts of these, but a {type(tree).__name__} is in it; "
        "keep numbers in tensors with one entry for each row."
    )
