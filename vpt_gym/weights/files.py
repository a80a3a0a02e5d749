"""Tensor files, read a bounded part at a time: safetensors, and torch.save archives with `weights_only`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from vpt_gym.errors import WeightsError
from vpt_gym.weights.pickles import refused_global, require_safe_torch

__all__ = ["TensorFile", "TensorInfo", "check_is_data", "open_tensor_file"]

Take = Callable[[str, torch.Tensor], None]

_GROUP_ELEMENTS = 2**24
"""Pages of a mapped file count as the process's own memory until the mapping goes, so a mapping is dropped after about
this much has been read through it."""

_LIGHTNING_PREFIX = "mine_policy."
_GET_AGAIN = "delete it and get it again from its source"
_SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DAMAGE = (RuntimeError, EOFError, AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, OSError)
"""What torch.load raises on bytes that are no archive of its own, or only part of one."""


class TensorInfo(NamedTuple):
    """Shape, and element type as torch spells it without `torch.`, of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: str


class TensorFile(Protocol):
    """A file of named tensors that can be listed without reading them."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Describe every tensor, by VPT's name."""

    def visit(self, names: Sequence[str], take: Take) -> None:
        """Hand each named tensor to `take`, which must copy what it keeps and keep nothing else."""


def check_is_data(path: Path) -> None:
    """Refuse what download tools leave in place of a file: nothing, a web page, a git-LFS pointer.

    Raises:
        WeightsError: the file is one of these, or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    if not head:
        raise WeightsError(f"{path} is empty: {_GET_AGAIN}.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-LFS pointer and not the file itself: run `git lfs pull` in its repository, or "
            f"{_GET_AGAIN}."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise WeightsError(
            f"{path} is a web page, not the file that was asked for: delete it, and download from a link that leads to "
            "the file itself."
        )


def open_tensor_file(path: Path) -> TensorFile:
    """Open a checkpoint by its ending: `.safetensors`, `.weights` or `.ckpt`.

    Raises:
        WeightsError: the content is not what the ending promises, is damaged or truncated, or is a pickle that asks for
            more than tensors, or that this torch cannot open safely.
    """
    check_is_data(path)
    with path.open("rb") as file:
        head = file.read(9)
    zipped, pickled = head.startswith(b"PK\x03\x04"), head.startswith(b"\x80")
    if path.suffix == ".safetensors":
        if zipped or (pickled and head[8:] != b"{"):
            raise WeightsError(
                f"{path} is a PyTorch archive and not safetensors: rename it to end in .weights, or .ckpt if "
                "Lightning wrote it."
            )
        return _Safetensors(path)
    if head[8:] == b"{":
        raise WeightsError(f"{path} holds safetensors: rename it to end in .safetensors.")
    if not (zipped or pickled):
        raise WeightsError(f"{path} was not written by torch.save: {_GET_AGAIN}, or give it the ending of what it is.")
    require_safe_torch(path)
    return _TorchArchive(path, mapped=zipped)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._infos: dict[str, TensorInfo] = {}
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    part = file.get_slice(name)
                    kind = part.get_dtype()
                    shape = tuple(part.get_shape())
                    self._infos[name] = TensorInfo(shape, _SAFETENSORS_TYPES.get(kind, kind))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is truncated or no safetensors file ({error}): {_GET_AGAIN}.") from error

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        for group in _groups(names, self._infos):
            with safe_open(self._path, framework="pt") as file:
                for name in group:
                    take(name, file.get_tensor(name))


class _TorchArchive:
    def __init__(self, path: Path, *, mapped: bool) -> None:
        self._path = path
        # Only the zip archives that torch has written since 1.6 can be mapped; an older file is read whole, every time.
        self._mapped = mapped
        tensors = self._load()
        self._infos = {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        }

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        for group in _groups(names, self._infos) if self._mapped else [names]:
            tensors = self._load()
            for name in group:
                take(name, tensors[name])
            del tensors

    def _load(self) -> dict[str, torch.Tensor]:
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True, mmap=self._mapped)
        except pickle.UnpicklingError as error:
            asked = refused_global(str(error))
            if asked is None:
                raise WeightsError(
                    f"{self._path} is damaged, or pickles more than tensors: {_GET_AGAIN}, or get it as .safetensors."
                ) from error
            raise WeightsError(
                f"{self._path} is refused: its pickle asks for {asked}, which is no tensor and could run "
                "code. Get the weights as .safetensors, or convert the file where you trust it."
            ) from None
        except _DAMAGE as error:
            raise WeightsError(f"{self._path} is truncated or damaged ({_first_line(error)}): {_GET_AGAIN}.") from error
        return self._tensors_of(content)

    def _tensors_of(self, content: object) -> dict[str, torch.Tensor]:
        lightning = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
        if lightning != (self._path.suffix == ".ckpt"):
            if lightning:
                raise WeightsError(f"{self._path} is a Lightning checkpoint: rename it to end in .ckpt.")
            raise WeightsError(
                f"{self._path} is no Lightning checkpoint, for it has no 'state_dict': if it is OpenAI's, rename it to "
                "end in .weights."
            )
        state = content["state_dict"] if lightning and isinstance(content, dict) else content
        if not isinstance(state, dict):
            raise WeightsError(
                f"{self._path} holds {type(state).__name__} and not a dict of tensors: name the file that "
                "torch.save wrote of a policy's state_dict."
            )
        prefix = _LIGHTNING_PREFIX if lightning else ""
        named = ((str(name).removeprefix(prefix), value) for name, value in state.items())
        return {name: value for name, value in named if self._is_plain_tensor(name, value)}

    def _is_plain_tensor(self, name: str, value: object) -> bool:
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            return True
        if name.startswith("net."):
            raise WeightsError(
                f"{self._path}: {name} is no plain tensor but {type(value).__name__}: save the policy's "
                "state_dict as it is."
            )
        return False


def _groups(names: Sequence[str], infos: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name in names:
        elements = prod(infos[name].shape)
        if group and size + elements > _GROUP_ELEMENTS:
            yield group
            group, size = [], 0
        group.append(name)
        size += elements
    if group:
        yield group


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
