"""How each kind of MinePolicy is spoken to: what it is told to do, what else it reads, and its forward for one frame a row."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vpt_gym.config import FRAME_SIZE
from vpt_gym.encoders.minestudio.conditions import as_tensor, batched, ready
from vpt_gym.encoders.minestudio.forward import latents_of, run
from vpt_gym.encoders.minestudio.states import Tree
from vpt_gym.encoders.protocol import GoalTower
from vpt_gym.errors import ObservationError, VPTGymError

__all__ = [
    "IMAGE",
    "Kind",
    "OwnKind",
    "RocketKind",
    "VPTKind",
    "check_trunk",
    "class_of",
    "timm_frame_size",
    "vpt_frame_size",
]

IMAGE = "image"
"""Key of the frames in a policy's input, and in what a step is given when a policy reads more than them."""


def class_of(module: str, name: str) -> Any:
    """A class of MineStudio, or None where its module has not been imported, so that no instance can exist."""
    return getattr(sys.modules.get(module), name, None)


class Kind:
    """What is common to all: a policy that takes no condition and reads nothing but frames.

    Attributes:
        policy: the user's, never changed.
        name: of its class.
        latent_size: length of what enters its `pi_head`.
        frame_size: side of the frames it reads, in pixels; None when only its author can know.
        also_reads: what else it reads of an observation.
        needs_condition: no row can be stepped without one.
        only_size: its network is made for frames of `frame_size` and takes no others.
        keeps_form: its state has the form, dtypes and shapes of its initial one at every frame.
    """

    needs_condition: ClassVar[bool] = False
    only_size: ClassVar[bool] = False
    keeps_form: ClassVar[bool] = True

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.name = type(policy).__name__
        self.latent_size = _latent_size(policy)
        self.frame_size: int | None = None
        self.also_reads: tuple[str, ...] = ()

    def prepare(self, condition: object) -> dict[str, Any]:
        """The entries of one row's condition; to be called inside `computing`.

        Raises:
            VPTGymError: the policy takes no such condition.
        """
        if condition is not None:
            raise VPTGymError(
                f"{self.name} takes no condition, but a {type(condition).__name__} came; leave condition out."
            )
        return {}

    def fits(self, entries: Mapping[str, Any]) -> bool:
        """Whether these are entries as `prepare` gives them, when they come back from a state."""
        return not entries

    def also(self, key: str, values: Any, count: int) -> Tensor:
        """What a step was given under a key of `also_reads`, checked: a tensor [count, 1, ...] on the CPU.

        Raises:
            ObservationError: it is not what the policy can read.
        """
        raise NotImplementedError

    def goal_tower(self) -> GoalTower | None:
        """What embeds texts, where the policy brings it."""
        return None

    def initial_state(self, entries: Mapping[str, Any]) -> Tree:
        """The state of one row, [1, ...], at the start of an episode under this condition."""
        del entries
        state: Tree = self.policy.initial_state(1)
        return state

    def forward(self, seen: dict[str, Tensor], state: Tree, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tree]:
        """One frame of n rows, inside `computing`.

        Args:
            seen: `image`, uint8 [n, 1, size, size, 3], and [n, 1, ...] for each key of `also_reads`, on the device.
            state: of these rows.
            rows: entries of their conditions, all of one kind.

        Returns:
            The latents, float32 [n, latent_size], fresh; and the state after the frame.
        """
        done = run(self.policy, self.inputs(seen, rows), state, self.latent_size)
        return latents_of(done, len(rows), self.latent_size, self.name), done.state

    def inputs(self, seen: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the policy's `forward` is given."""
        del rows
        return dict(seen)


class VPTKind(Kind):
    """MineStudio's VPTPolicy."""

    only_size: ClassVar[bool] = True

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        check_trunk(policy)
        self.frame_size = vpt_frame_size(policy.net)


class OwnKind(Kind):
    """A policy that a user derived: `forward` gets the frames, what it also reads, and the entries of its condition."""

    keeps_form: ClassVar[bool] = False  # only its author knows

    def __init__(self, policy: Any, also_reads: tuple[str, ...]) -> None:
        super().__init__(policy)
        self.also_reads = also_reads
        vpt = class_of("minestudio.models.vpt.body", "VPTPolicy")
        self.frame_size = vpt_frame_size(policy.net) if vpt is not None and isinstance(policy, vpt) else None

    def prepare(self, condition: object) -> dict[str, Any]:
        """A mapping of what the policy reads in its `input`, without batch and time axes; None for nothing."""
        if condition is None:
            return {}
        if not isinstance(condition, Mapping):
            raise VPTGymError(
                f"A condition of {self.name} is a dict of entries of its input, each of one row and one frame, such as "
                f"{{'condition': array}}, but a {type(condition).__name__} came."
            )
        taken = [key for key in (IMAGE, *self.also_reads) if key in condition]
        if taken:
            raise VPTGymError(
                f"The condition has {taken[0]!r}, which {self.name} gets from every observation; leave it out."
            )
        return ready(condition, "condition", self.policy.device)

    def fits(self, entries: Mapping[str, Any]) -> bool:
        """Nested mappings of tensors and strings, whatever their names."""
        return all(
            self.fits(value) if isinstance(value, Mapping) else isinstance(value, (Tensor, str))
            for value in entries.values()
        )

    def also(self, key: str, values: Any, count: int) -> Tensor:
        """Numbers of any shape, one entry for each row; floating-point ones become float32."""
        try:
            tensor = as_tensor(values, f"step: {key!r}")
        except VPTGymError as error:
            raise ObservationError(str(error)) from error
        if tensor.shape[:1] != (count,):
            raise ObservationError(
                f"step: {key!r} must have one entry for each of the {count} rows, but its shape is {tuple(tensor.shape)}."
            )
        return tensor[:, None]

    def inputs(self, seen: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Frames, what else is read, and the entries of the conditions, which must bring what `forward` asks for."""
        return _Inputs(self.name, {**seen, **batched(rows)})


class _Inputs(dict[str, Any]):
    """A policy's input that says what is missing in it."""

    def __init__(self, name: str, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise VPTGymError(
            f"{self._name} reads input[{key!r}], but its input holds {', '.join(map(repr, self))} only; give it as "
            f"condition={{{key!r}: ...}}, or name it in also_reads where every observation has it."
        )


class RocketKind(Kind):
    """ROCKET-1: the object's mask and the kind of interaction with it come with every observation."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.frame_size = timm_frame_size(policy.backbone)
        self.also_reads = ("obj_mask", "obj_id")
        self._largest = int(policy.interaction.num_embeddings) - 2  # ids begin at -1, for none

    def also(self, key: str, values: Any, count: int) -> Tensor:
        """`obj_mask` as float32 [count, 1, size, size], resized to the nearest pixel; `obj_id` as int64 [count, 1]."""
        if isinstance(values, Tensor):
            tensor = values.detach().cpu()
            array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
        else:
            try:
                array = np.asarray(values)
            except ValueError as error:  # a ragged list
                raise ObservationError(
                    f"step: {key} must be one array for all rows, but entries of several shapes came."
                ) from error
        return self._id(array, count) if key == "obj_id" else self._mask(array, count)

    def inputs(self, seen: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Mask and id under `segment`, where the policy looks for them."""
        del rows
        return {IMAGE: seen[IMAGE], "segment": {key: seen[key] for key in self.also_reads}}

    def _id(self, array: np.ndarray[Any, Any], count: int) -> Tensor:
        if array.dtype.kind not in "iu" or array.shape != (count,):
            raise ObservationError(
                f"step: obj_id must be {count} whole numbers of shape ({count},), one for each row, but {array.dtype} of shape "
                f"{array.shape} came; take obj_id[:, 0] of a column."
            )
        if array.min() < -1 or array.max() > self._largest:
            raise ObservationError(
                f"step: obj_id must lie between -1, for no interaction, and {self._largest}, but {array.tolist()} came."
            )
        return torch.from_numpy(array.astype(np.int64))[:, None]

    def _mask(self, array: np.ndarray[Any, Any], count: int) -> Tensor:
        if array.dtype.kind not in "biuf" or array.ndim != 3 or len(array) != count or 0 in array.shape:
            raise ObservationError(
                f"step: obj_mask must be [{count}, height, width] of bool, 0 and 1 or numbers between, but {array.dtype} of "
                f"shape {array.shape} came."
            )
        if not np.isfinite(array).all():
            raise ObservationError("step: obj_mask holds NaN or infinity; look at where it comes from.")
        if not (array.min() >= 0 and array.max() <= 1):
            raise ObservationError(
                f"step: obj_mask must lie between 0 and 1, but its values go from {array.min():g} to {array.max():g}; divide a "
                "mask of 0 and 255 by 255."
            )
        assert self.frame_size is not None
        side = (self.frame_size, self.frame_size)
        resized = [cv2.resize(mask, side, interpolation=cv2.INTER_NEAREST) for mask in array.astype(np.float32)]
        return torch.from_numpy(np.stack(resized))[:, None]


def timm_frame_size(backbone: nn.Module) -> int:
    """Side in pixels of the frames that a backbone of timm was trained on: 224 for GROOT's and ROCKET-1's."""
    resolve: Any = sys.modules["timm"].data.resolve_model_data_config
    return int(resolve(backbone)["input_size"][-1])


def vpt_frame_size(net: nn.Module) -> int:
    """Side of the frames for which a `MinecraftPolicy`'s dense layer is made; VPT's 128 for a network without those layers."""
    state = net.state_dict()
    filters, dense = (state.get(f"img_process.cnn.{name}.layer.weight") for name in ("stacks.2.firstconv", "dense"))
    if filters is None or dense is None:
        return FRAME_SIZE
    # Each of three stacks halves the side.
    return 8 * math.isqrt(dense.shape[1] // len(filters))


def check_trunk(policy: Any) -> None:
    """Raises VPTGymError if a VPTPolicy or SteveOnePolicy has no `net`, on which its forward would open a debugger."""
    net = getattr(policy, "net", None)
    if not isinstance(net, nn.Module):
        raise VPTGymError(
            f"{type(policy).__name__}.net must be the network that its forward calls, but it is {net!r:.60}; load the "
            "policy anew."
        )


def _latent_size(policy: Any) -> int:
    layers = [layer for layer in policy.pi_head.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise VPTGymError(
            f"{type(policy).__name__}.pi_head has no linear layer to read the latents, so their size is not known; give the "
            "policy an action head as minestudio's make_action_head builds it."
        )
    return layers[0].in_features
