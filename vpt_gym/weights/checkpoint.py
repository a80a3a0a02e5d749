"""Loading: find the files, check what they hold, copy the network's tensors one by one."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from vpt_gym.config import PRESETS, VPTConfig
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.weights.architecture import check_declared, config_from_shapes
from vpt_gym.weights.declared import read_declared
from vpt_gym.weights.files import open_tensor_file, read_training
from vpt_gym.weights.names import NETWORK_PREFIX, TensorSpec, table
from vpt_gym.weights.source import ResolvedSource, Untrained, resolve
from vpt_gym.weights.tensors import TensorInfo
from vpt_gym.weights.untrained import untrained_tensors

__all__ = ["Checkpoint", "LoadReport", "load_checkpoint", "take_checkpoint"]

_STORED: Final = ("float16", "bfloat16", "float32", "float64")
_WANTED: Final = (torch.float32, torch.bfloat16, torch.float16)
_CHUNK: Final = 2**20
"""Elements converted at a time, so that no second copy of a large tensor ever exists."""


@dataclass(frozen=True)
class LoadReport:
    """What loading took from where.

    Attributes:
        files: the files that were read, tensors first; none for untrained weights.
        taken: VPT's names of the network's tensors, all of which were taken.
        aside: names of the tensors outside the network, none of which was read.
        parameters: numbers in the tensors that were taken.
        untrained: the weights were drawn at random, because the source said so.
        training: what the file says of how its weights were made, JSON values; None where it says nothing.
    """

    files: tuple[Path, ...]
    taken: tuple[str, ...]
    aside: tuple[str, ...]
    parameters: int
    untrained: bool
    training: Mapping[str, Any] | None = None

    @property
    def heads(self) -> Mapping[str, int]:
        """Tensors left aside, counted by the first part of their names, such as `pi_head`; in alphabetical order."""
        return dict(sorted(Counter(name.partition(".")[0] for name in self.aside).items()))

    def summary(self) -> str:
        """Say in one line what was taken and what was left aside."""
        text = f"{len(self.taken)} tensors taken ({self.parameters:,} parameters)"
        if self.untrained:
            return f"{text}, untrained: drawn at random"
        groups = ", ".join(f"{head} {count}" for head, count in self.heads.items())
        return f"{text}, {len(self.aside)} left aside{': ' * bool(groups)}{groups}"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, checked and ready to be put into it.

    Attributes:
        source: the string they were asked for by.
        config: the size of the network, read from the tensors.
        tensors: every tensor of the network, by the names of vpt_gym's `state_dict`.
        digest: sha256, in hex, over one line for each tensor in the order of the table: VPT's name, shape, and the
            sha256 of the values as little-endian float32. The same for every precision and device that they are loaded
            in and for every kind of file.
        report: what was taken and what was left aside.
    """

    source: str
    config: VPTConfig
    tensors: dict[str, torch.Tensor]
    digest: str
    report: LoadReport


def load_checkpoint(
    source: str | ResolvedSource, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Load the network's weights; every tensor comes from the source, or loading fails and says which did not.

    Memory peaks at the weights in the wanted precision and about 64 MiB more (the largest tensor of the file, if that
    is larger).

    Args:
        source: a source string, see `resolve`, or what `resolve` made of it.
        dtype: precision of the tensors: float32, bfloat16 or float16.
        device: where the tensors shall lie.

    Returns:
        The tensors with their architecture, digest and report.

    Raises:
        OptionError: `dtype` is another.
        WeightsError: the source cannot be found, trusted or read, or is not a whole VPT network, or a tensor holds NaN,
            infinity, or a number beyond the range of `dtype`.
    """
    if dtype not in _WANTED:
        raise OptionError(f"Weights cannot be loaded as {dtype}: choose from {', '.join(map(str, _WANTED))}.")
    resolved = source if isinstance(source, ResolvedSource) else resolve(source)
    if resolved.untrained is not None:
        return _draw(resolved, resolved.untrained, dtype, torch.device(device))
    assert resolved.weights is not None
    return _read(resolved, resolved.weights, dtype, torch.device(device))


def take_checkpoint(
    origin: str,
    tensors: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Copies a network's weights out of a module that is loaded already.

    Args:
        origin: what messages and the checkpoint's `source` call it.
        tensors: float32 tensors by VPT's names (`net.` in front); others may be among them and are left aside.
        dtype: as for `load_checkpoint`.
        device: as for `load_checkpoint`.

    Raises:
        WeightsError: they are not a whole VPT network, or one holds NaN, infinity, or a number beyond the range of `dtype`.
    """
    config = config_from_shapes(Path(origin), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    taking = _Taking(origin, config, dtype, torch.device(device))
    for spec in table(config):
        taking.take(spec.vpt_name, tensors[spec.vpt_name].cpu())
    aside = tuple(sorted(name for name in tensors if not name.startswith(NETWORK_PREFIX)))
    return taking.finished(ResolvedSource(origin, None, None, None, identity=None), aside)


def _draw(resolved: ResolvedSource, wish: Untrained, dtype: torch.dtype, device: torch.device) -> Checkpoint:
    config = PRESETS[wish.preset]
    taking = _Taking(resolved.source, config, dtype, device)
    for name, tensor in untrained_tensors(config, wish.seed):
        taking.take(name, tensor)
        del tensor  # or it would stay in memory while the next one is drawn
    return taking.finished(resolved, ())


def _read(resolved: ResolvedSource, path: Path, dtype: torch.dtype, device: torch.device) -> Checkpoint:
    file = open_tensor_file(path)
    infos = file.infos()
    shapes = {name: info.shape for name, info in infos.items()}
    config = config_from_shapes(path, shapes)
    if resolved.declared is not None:
        declared = read_declared(resolved.declared)
        check_declared(declared, config, shapes, declared_in=resolved.declared, path=path)
    specs = table(config)
    _check_types(path, specs, infos)
    taking = _Taking(str(path), config, dtype, device)
    file.visit([spec.vpt_name for spec in specs], taking.take)
    aside = tuple(sorted(name for name in infos if not name.startswith(NETWORK_PREFIX)))
    return taking.finished(resolved, aside, read_training(path))


def _check_types(path: Path, specs: tuple[TensorSpec, ...], infos: Mapping[str, TensorInfo]) -> None:
    wrong = [spec.vpt_name for spec in specs if infos[spec.vpt_name].dtype not in _STORED]
    if wrong:
        examples = ", ".join(f"{name} ({infos[name].dtype})" for name in wrong[:5])
        raise WeightsError(
            f"{path}: {len(wrong)} tensors hold no floating-point numbers that vpt_gym reads: {examples}. "
            f"Save the weights as {', '.join(_STORED)}."
        )


class _Taking:
    """Copies tensors, in any order, and checks and digests their values on the way."""

    def __init__(self, origin: str, config: VPTConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._origin = origin
        self._config = config
        self._dtype = dtype
        self._device = device
        self._specs = {spec.vpt_name: spec for spec in table(config)}
        self._digests: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}

    def take(self, name: str, tensor: torch.Tensor) -> None:
        """Copy one tensor; float32 values pass through here a chunk at a time."""
        spec = self._specs[name]
        assert tuple(tensor.shape) == spec.shape
        sha256 = hashlib.sha256()
        kept = torch.empty(spec.shape, dtype=self._dtype, device=self._device)
        stored, out = tensor.detach().reshape(-1), kept.view(-1)
        for start in range(0, stored.numel(), _CHUNK):
            # A tensor of one axis may have gaps between its numbers, and hashing wants them side by side.
            values = stored[start : start + _CHUNK].to(torch.float32).contiguous()
            low, high = (float(bound) for bound in torch.aminmax(values))
            self._check_range(name, low, high)
            sha256.update(values.numpy().astype("<f4", copy=False).data)
            out[start : start + _CHUNK].copy_(values)
        self._tensors[spec.parameter] = kept
        self._digests[name] = sha256.hexdigest()

    def finished(
        self, resolved: ResolvedSource, aside: tuple[str, ...], training: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Put together what was taken, which must be everything."""
        assert len(self._tensors) == len(self._specs)
        lines = "".join(f"{name} {spec.shape} {self._digests[name]}\n" for name, spec in self._specs.items())
        report = LoadReport(
            files=resolved.files,
            taken=tuple(self._specs),
            aside=aside,
            parameters=sum(math.prod(spec.shape) for spec in self._specs.values()),
            untrained=resolved.untrained is not None,
            training=training,
        )
        tensors = {spec.parameter: self._tensors[spec.parameter] for spec in self._specs.values()}
        digest = hashlib.sha256(lines.encode()).hexdigest()
        return Checkpoint(resolved.source, self._config, tensors, digest, report)

    def _check_range(self, name: str, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise WeightsError(
                f"{self._origin}: {name} holds NaN or infinity, so the weights are damaged: get the file "
                "again from its source, or an earlier checkpoint of the training."
            )
        largest = max(-low, high)
        if largest > torch.finfo(self._dtype).max:
            raise WeightsError(
                f"{self._origin}: {name} holds numbers up to {largest:.3g}, beyond the range of "
                f"{self._dtype}: load it as float32 or bfloat16."
            )
