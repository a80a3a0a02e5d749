"""VPT's own heads: the distribution of actions and the value of a state, both read from the final latent."""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vpt_gym.checks import is_between
from vpt_gym.config import PRESETS
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.weights.declared import read_temperature
from vpt_gym.weights.files import open_tensor_file
from vpt_gym.weights.source import ResolvedSource, Untrained, unchanged

__all__ = ["VPTHeads", "load_heads"]

OPENAI_TEMPERATURE: Final = 2.0
"""What a `.weights` file without its `.model` was trained with (`PI_HEAD_KWARGS` in Video-Pre-Training's agent.py)."""
MINESTUDIO_TEMPERATURE: Final = 1.0
"""What MineStudio's `MinePolicy` takes where nothing is said."""

_VPTS: Final[Mapping[str, int]] = {"buttons": 8641, "camera": 121}
"""The parts of VPT's own `pi_head`, and how many actions each has."""
_PART: Final = re.compile(r"pi_head\.(?:([^.]+)\.)?linear_layer\.(?:weight|bias)")
_UNTRAINED_SCALE: Final = 0.01
"""Length of an untrained row of `pi_head`, as VPT itself starts it: logits of that size, so an all but uniform policy."""
_EXAMPLES: Final = 5
_LONGEST: Final = 300

Shape = tuple[int, ...]


class VPTHeads:
    """The tensors of VPT's `pi_head` and `value_head` in float32 on the CPU, with the temperature of the actions. Frozen.

    From `encoder.heads`, or from the state of a live policy by `from_state_dict`.

    A pickle of them holds sizes, temperature and fingerprint, but no tensors: Stable-Baselines3 writes a policy's arguments
    beside its parameters, and 70 MB of heads need not be there twice. What comes out of such a pickle is good for loading the
    saved policy and for nothing else; its tensors are NaN (`is_empty`). Two heads are equal when their fingerprints are.

    Attributes:
        latent_size: length of the latent that they read.
        actions: how many actions each part of `pi_head` has, by its name, in alphabetical order: VPT's are `buttons` (8641
            combinations) and `camera` (121 movements). A `pi_head` for one Discrete space is one part without a name: "".
        temperature: what the logits are divided by before the softmax.
        fingerprint: sha256, in hex, over all tensors and the temperature.
        latents: which latents they read, as the `fingerprint` of the encoder that they come from; None if nobody said.
    """

    def __init__(
        self,
        latent_size: int,
        actions: Mapping[str, int],
        temperature: float,
        digest: str,
        tensors: Mapping[str, Tensor] | None,
        latents: str | None = None,
    ) -> None:
        self.latent_size, self.actions = latent_size, dict(actions)
        self.temperature = temperature
        self._digest = digest
        self._tensors = tensors
        self.latents = latents
        self.fingerprint = hashlib.sha256(f"{digest} temperature {temperature!r}".encode()).hexdigest()

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        temperature: float = MINESTUDIO_TEMPERATURE,
        *,
        latents: str | None = None,
        origin: str = "The state",
    ) -> VPTHeads:
        """Copies the heads out of a policy's state, such as that of MineStudio's VPTPolicy.

        Args:
            state: tensors by VPT's names: `pi_head.buttons.linear_layer.weight` [buttons, latent], its `bias`, the same for
                `camera` or whatever other parts there are, or `pi_head.linear_layer` for one Discrete space;
                `value_head.linear.weight` [1, latent], its `bias`, and `value_head.normalizer`'s `running_mean` [1],
                `running_mean_sq` [1] and `debiasing_term` []. Others may be among them. Any floating-point type and device.
            temperature: what the logits are divided by; MineStudio's default is 1, that of OpenAI's files 2.
            latents: `fingerprint` of the encoder whose latents they read, so that `KLPPO` refuses those of another.
            origin: what messages call the state.

        Raises:
            WeightsError: a tensor is missing, of a wrong shape, no floating-point numbers, or holds NaN or infinity; or the
                temperature is not a positive number.
        """
        found = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
        sizes = _sizes(origin, found)
        tensors = {name: _taken(origin, name, state[name]) for name in _shapes(*sizes)}
        return cls(*sizes, check_temperature(temperature, origin), _digest(tensors), tensors, latents)

    def __repr__(self) -> str:
        empty = ", without tensors" if self.is_empty else ""
        parts = ", ".join(f"{count} {name or 'actions'}" for name, count in self.actions.items())
        return (
            f"<VPTHeads {self.latent_size} -> {parts}, temperature "
            f"{self.temperature:g}, {self.fingerprint[:12]}{empty}>"
        )

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, VPTHeads) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __copy__(self) -> VPTHeads:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> VPTHeads:
        # Frozen, so one serves as well as two; what __reduce__ leaves out must not be lost in a copy.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return VPTHeads, (self.latent_size, self.actions, self.temperature, self._digest, None, self.latents)

    @property
    def is_empty(self) -> bool:
        """Whether they came out of a pickle and have no tensors."""
        return self._tensors is None

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, float32 on the CPU, not to be changed; all NaN where the heads are empty."""
        if self._tensors is None:
            return torch.full(_shapes(self.latent_size, self.actions)[name], math.nan, device="cpu")
        return self._tensors[name]

    def with_temperature(self, temperature: float) -> VPTHeads:
        """The same tensors with another temperature, for files that do not tell theirs, such as Lightning's checkpoints.

        Raises:
            OptionError: it is not a positive number.
        """
        checked = _temperature_of(temperature)
        if checked is None:
            raise OptionError(f"temperature must be a number above 0, such as 2, not {reprlib.repr(temperature)}.")
        return VPTHeads(self.latent_size, self.actions, checked, self._digest, self._tensors, self.latents)

    def with_latents(self, latents: str | None) -> VPTHeads:
        """The same tensors, said to read the latents of the encoder with this `fingerprint`."""
        return VPTHeads(self.latent_size, self.actions, self.temperature, self._digest, self._tensors, latents)

    def part_names(self, kind: str) -> list[str]:
        """VPT's names of the `weight` or `bias` of every part of `pi_head`, in the order of `actions`."""
        return [_part_name(part, kind) for part in self.actions]

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by VPT's names, float32 on the CPU, not to be changed."""
        return {name: self.tensor(name) for name in _shapes(self.latent_size, self.actions)}


def load_heads(resolved: ResolvedSource, latent_size: int) -> VPTHeads:
    """Loads the heads that lie beside a network in the same source.

    Args:
        resolved: the source that the network was loaded from.
        latent_size: length of the network's final latent.

    Returns:
        The heads. Their temperature is what OpenAI's `.model` or MineStudio's `config.json` says; where neither is there, 2 for
        a `.weights` file and 1 for any other. Untrained ones (`random:<preset>`) have VPT's sizes and temperature 2.

    Raises:
        WeightsError: the file has changed since, is damaged, lacks a tensor, or holds one of a wrong shape or with NaN or
            infinity; or the heads belong to a network of another size.
    """
    if resolved.untrained is not None:
        return _draw(resolved.untrained)
    path = resolved.weights
    assert path is not None
    if not unchanged(resolved):
        raise WeightsError(f"{path} has changed since the network was loaded from it: load the encoder anew.")
    file = open_tensor_file(path)
    origin = str(path)
    sizes = _sizes(origin, {name: info.shape for name, info in file.infos().items()})
    if sizes[0] != latent_size:
        raise WeightsError(
            f"{path}: the heads read latents of {sizes[0]} numbers, but the network beside them gives {latent_size}: they "
            "belong to different networks, so get the file again from its source."
        )
    tensors: dict[str, Tensor] = {}

    def take(name: str, tensor: Tensor) -> None:
        tensors[name] = _taken(origin, name, tensor)

    file.visit(list(_shapes(*sizes)), take)
    return VPTHeads(*sizes, _temperature(resolved, path), _digest(tensors), tensors)


def _temperature(resolved: ResolvedSource, path: Path) -> float:
    found = None if resolved.declared is None else read_temperature(resolved.declared)
    if found is not None:
        return check_temperature(found, str(resolved.declared))
    return OPENAI_TEMPERATURE if path.suffix == ".weights" else MINESTUDIO_TEMPERATURE


def _temperature_of(value: Any) -> float | None:
    return float(value) if is_between(value, 0) and value else None


def check_temperature(value: object, origin: str) -> float:
    """The temperature as a float; raises WeightsError unless it is a positive finite number."""
    checked = _temperature_of(value)
    if checked is not None:
        return checked
    raise WeightsError(
        f"{origin}: the temperature of VPT's action head must be a positive number, not {reprlib.repr(value)}."
    )


def _part_name(part: str, kind: str) -> str:
    return f"pi_head.{part}.linear_layer.{kind}" if part else f"pi_head.linear_layer.{kind}"


def _shapes(latent: int, actions: Mapping[str, int]) -> dict[str, Shape]:
    """VPT's names and the shapes of the tensors. Source: `state_dict` of OpenAI's MinecraftAgentPolicy; lib/action_head.py."""
    pi_head: dict[str, Shape] = {}
    for part, count in actions.items():
        pi_head |= {_part_name(part, "weight"): (count, latent), _part_name(part, "bias"): (count,)}
    return {
        **pi_head,
        "value_head.linear.weight": (1, latent),
        "value_head.linear.bias": (1,),
        "value_head.normalizer.running_mean": (1,),
        "value_head.normalizer.running_mean_sq": (1,),
        "value_head.normalizer.debiasing_term": (),
    }


def _sizes(origin: str, found: Mapping[str, Shape]) -> tuple[int, dict[str, int]]:
    """Length of the latent and the parts of `pi_head`, from the tensors alone, all of which must be there and fit."""
    parts = {match[1] or "" for name in found if (match := _PART.fullmatch(name))}
    if not parts or parts & set(_VPTS):
        parts |= set(_VPTS)
    names = list(_shapes(0, dict.fromkeys(sorted(parts), 0)))
    strange = sorted(name for name in found if name.startswith("pi_head.") and name not in names)
    if strange:
        gaussian = any(name.endswith("log_std") for name in strange)
        what = "a Gaussian head, for continuous actions" if gaussian else "a head of another kind"
        raise WeightsError(
            f"{origin} has {what}: {_some(strange)}. VPT's heads are categorical, one linear layer for each part; train with a "
            "head of Stable-Baselines3's own."
        )
    missing = [name for name in names if name not in found]
    if missing:
        raise WeightsError(
            f"{origin} lacks {len(missing)} of the {len(names)} tensors of VPT's heads: {_some(missing)}. Name a checkpoint "
            "of a whole policy, or train with a head of Stable-Baselines3's own."
        )

    # Several tensors show each size. The commonest answer wins, so that one damaged tensor is reported as that one.
    def size(*places: tuple[str, int]) -> int:
        seen = [found[name][axis] for name, axis in places if len(found[name]) > axis]
        return Counter(seen).most_common(1)[0][0] if seen else 0

    actions = {part: size((_part_name(part, "bias"), 0), (_part_name(part, "weight"), 0)) for part in sorted(parts)}
    latent = size(*((name, 1) for name in names))
    wrong = [
        f"{name} (expected {shape}, is {found[name]})"
        for name, shape in _shapes(latent, actions).items()
        if found[name] != shape or 0 in shape
    ]
    if wrong:
        raise WeightsError(
            f"{origin}: {len(wrong)} of the {len(names)} tensors of VPT's heads have a wrong shape: {_some(wrong)}. They are "
            "damaged or another policy's: get the weights again from their source."
        )
    return latent, actions


def _taken(origin: str, name: str, tensor: Tensor) -> Tensor:
    """A copy in float32 on the CPU, whose values are all numbers."""
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
        raise WeightsError(
            f"{origin}: {name} holds {tensor.dtype}, which is no floating-point type that vpt_gym reads: save it as float32."
        )
    copied = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    low, high = torch.aminmax(copied)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise WeightsError(
            f"{origin}: {name} holds NaN or infinity, so the heads are damaged: get the weights again from their source, or an "
            "earlier checkpoint of the training."
        )
    return copied


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256, in hex, over name, shape and little-endian float32 values of every tensor."""
    sha256 = hashlib.sha256()
    for name, tensor in tensors.items():
        sha256.update(f"{name} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.reshape(-1).numpy().astype("<f4", copy=False).data)
    return sha256.hexdigest()


def _draw(wish: Untrained) -> VPTHeads:
    """Untrained heads, which start as VPT's own do: short rows for actions, biases and statistics of zero."""
    latent_size = PRESETS[wish.preset].hidden_size
    # A stream of their own: the network's draws for this seed stay what they are, and these do not repeat them.
    seed = int.from_bytes(hashlib.sha256(f"heads {wish.seed}".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator("cpu").manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in _shapes(latent_size, _VPTS).items():
        tensors[name] = torch.zeros(shape, dtype=torch.float32, device="cpu")
        if len(shape) == 2:
            scale = _UNTRAINED_SCALE if name.startswith("pi_head") else 1.0
            tensors[name].normal_(generator=generator).mul_(scale / math.sqrt(shape[1]))
    return VPTHeads(latent_size, _VPTS, OPENAI_TEMPERATURE, _digest(tensors), tensors)


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else ""
    return ", ".join(item[:_LONGEST] for item in items[:_EXAMPLES]) + rest
