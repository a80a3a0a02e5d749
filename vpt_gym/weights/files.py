"""Opening files of tensors: what each format is known by, and safetensors, read a bounded part at a time."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from vpt_gym.errors import WeightsError
from vpt_gym.weights.archives import TorchArchive
from vpt_gym.weights.json_files import NotJSONError, parse_json
from vpt_gym.weights.shards import ShardedFile, is_index, shard_names
from vpt_gym.weights.tensors import GET_AGAIN, Take, TensorFile, TensorInfo
from vpt_gym.weights.wrapping import unwrapped

__all__ = ["ABOUT", "check_is_data", "check_is_file", "open_tensor_file", "open_tensors_as_named", "read_training"]

ABOUT: Final = "vpt_gym.training"
"""Entry of a safetensors file's own metadata: how the weights were made, as JSON. It goes wherever the file goes."""

_GROUP_ELEMENTS = 2**24
"""Pages of a mapped file count as the process's own memory until the mapping goes, so a mapping is dropped after about
this much has been read through it."""
_LARGEST_HEADER = 2**24
_SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def check_is_file(path: Path) -> None:
    """Refuse what would wait for ever, or never end, when it is read: pipes, sockets, devices; and folders.

    Raises:
        WeightsError: it is one of these, or is not there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"))
        kind = next((kind for is_kind, kind in kinds if is_kind(mode)), "a device")
        raise WeightsError(f"{path} is {kind} and no file: name a file, into which what comes out of it was written.")


def check_is_data(path: Path) -> None:
    """Refuse what download tools leave in place of a file: nothing, a web page, a git-LFS pointer.

    Raises:
        WeightsError: the file is one of these, is no regular file, or cannot be opened.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    if not head:
        raise WeightsError(f"{path} is empty: {GET_AGAIN}.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-LFS pointer and not the file itself: run `git lfs pull` in its repository, or {GET_AGAIN}."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise WeightsError(
            f"{path} is a web page, not the file that was asked for: delete it, and download from a link that leads to "
            "the file itself."
        )


def open_tensor_file(path: Path) -> TensorFile:
    """Open a checkpoint by its ending: `.safetensors`, an index of several files, or anything else for what torch.save wrote.

    Returns:
        Its tensors under VPT's own names, wherever what is around the policy is known.

    Raises:
        WeightsError: the content is not what the ending promises, is damaged or truncated, is ambiguous, or is a pickle that
            asks for more than tensors.
    """
    return unwrapped(path, open_tensors_as_named(path))


def open_tensors_as_named(path: Path) -> TensorFile:
    """As `open_tensor_file`, for networks of any kind: tensors under the names that the file gives them."""
    try:
        if is_index(path):
            check_is_data(path)
            return ShardedFile(path, {name: _open(path.with_name(name)) for name in shard_names(path)})
        return _open(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error


def _open(path: Path) -> TensorFile:
    check_is_data(path)
    with path.open("rb") as file:
        head = file.read(512)
    zipped, pickled = head.startswith(b"PK\x03\x04"), head.startswith(b"\x80")
    safe = head[8:9] == b"{"
    if path.suffix == ".safetensors":
        if zipped or (pickled and not safe):
            raise WeightsError(
                f"{path} is a PyTorch archive and not safetensors: rename it to end in .weights, or .ckpt if "
                "Lightning wrote it."
            )
        return _Safetensors(path)
    if safe and not zipped:
        raise WeightsError(f"{path} holds safetensors: rename it to end in .safetensors.")
    if head[257:262] == b"ustar":
        raise WeightsError(
            f"{path} is a tar archive, which only torch before 0.2 wrote: unpack it if it holds a checkpoint, or {GET_AGAIN}."
        )
    if not (zipped or pickled):
        raise WeightsError(f"{path} was not written by torch.save: {GET_AGAIN}, or give it the ending of what it is.")
    return TorchArchive(path, zipped=zipped)


def read_training(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` was told of how the weights in a file were made; None where the file says nothing.

    Raises:
        WeightsError: what it says is no JSON object.
    """
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(ABOUT)
    if text is None:
        return None
    try:
        found = parse_json(text.encode())
    except NotJSONError as error:
        raise WeightsError(f"{path}: what it says of its training is no JSON ({error}): {GET_AGAIN}.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: what it says of its training is no JSON object: {GET_AGAIN}.")
    return found


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.others: Mapping[str, str] = {}
        self._infos: dict[str, TensorInfo] = {}
        try:
            _check_header(path)
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    part = file.get_slice(name)
                    kind = part.get_dtype()
                    shape = tuple(part.get_shape())
                    self._infos[name] = TensorInfo(shape, _SAFETENSORS_TYPES.get(kind, kind))
        except (SafetensorError, NotJSONError, OSError) as error:
            raise WeightsError(f"{path} is truncated or no safetensors file ({error}): {GET_AGAIN}.") from error

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        for group in _groups(names, self._infos):
            with safe_open(self._path, framework="pt") as file:
                for name in group:
                    take(name, file.get_tensor(name))


def _check_header(path: Path) -> None:
    """Refuse a header that is too large, or gives a tensor twice: the library takes one of the two without a word."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            raise NotJSONError(f"its header claims {length:,} bytes, more than any network's")
        header = file.read(length)
    if len(header) < length:
        raise NotJSONError("its header is cut off")
    parse_json(header)


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
