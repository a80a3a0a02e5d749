"""The files that torch.save writes, read without torch.load: a pickle that is never run, and the numbers beside it."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

import torch

from vpt_gym.errors import WeightsError
from vpt_gym.weights.pickles import Build, DamagedPickleError, RefusedGlobalError, ordered_dict, read_pickle
from vpt_gym.weights.records import DamagedArchiveError, check_records, read_directory
from vpt_gym.weights.tensors import GET_AGAIN, Take, TensorInfo, read_tensor

__all__ = ["TorchArchive"]

_LARGEST_PICKLE: Final = 2**24
_MOST_AXES: Final = 8
_DEEPEST: Final = 4
"""Dicts inside dicts in which tensors are looked for."""
_LONGEST_NAME: Final = 256
_MOST_NAMES: Final = 100_000
_MAGIC: Final = 0x1950A86A20F9469CFC6C
"""First of the pickles in a file of torch before 1.6 (`MAGIC_NUMBER` in torch/serialization.py); 1001 is the second."""
_LEGACY_VERSION: Final = 1001
_WRAPPED: Final = "state_dict"
_LENGTH = struct.Struct("<q")

_STORAGES: Final[Mapping[str, str]] = {
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "Int": "int32",
    "Long": "int64",
    "Short": "int16",
}
"""`torch.<name>Storage` and the type of its elements."""


class _Storage(NamedTuple):
    """A run of numbers in the file, by its key in the pickle."""

    key: str
    dtype: str
    numel: int


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it, which reaches nowhere beyond its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Other(NamedTuple):
    """Something that torch writes and VPT's tensors are not."""

    kind: str


class TorchArchive:
    """A file that torch.save wrote, as named tensors.

    Dicts inside the dict are taken apart, with dots between the names, as modules do it. All that is not a tensor is left
    aside.

    Args:
        path: the file.
        zipped: it is one of the zip archives that torch has written since 1.6, not the older row of pickles and numbers.

    Attributes:
        others: what stands under names that hold no plain tensor, in words.

    Raises:
        WeightsError: the file is damaged or truncated, its sizes and checksums do not agree with its bytes, or its pickle
            asks for more than tensors.
    """

    def __init__(self, path: Path, *, zipped: bool) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        with path.open("rb") as file:
            length = file.seek(0, 2)
            try:
                content = self._read_zip(file, length) if zipped else self._read_row(file, length)
            except (DamagedArchiveError, DamagedPickleError) as error:
                raise WeightsError(f"{path} is truncated or damaged ({error}): {GET_AGAIN}.") from error
            except RefusedGlobalError as refusal:
                self._refuse(str(refusal))
        self._tensors, self.others = self._named(content)
        self._infos = {name: TensorInfo(tensor.shape, tensor.storage.dtype) for name, tensor in self._tensors.items()}

    def infos(self) -> Mapping[str, TensorInfo]:
        """Shape and type of every tensor."""
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        """Read the named tensors one by one."""
        with self._path.open("rb") as file:
            for name in names:
                tensor = self._tensors[name]
                dtype: torch.dtype = getattr(torch, tensor.storage.dtype)
                start = self._places[tensor.storage.key] + tensor.offset * dtype.itemsize
                take(name, read_tensor(self._path, file, start, dtype, tensor.shape, tensor.strides))

    def _refuse(self, asked: str) -> NoReturn:
        lightning = "content['state_dict']"
        state = lightning if self._path.suffix == ".ckpt" else f"({lightning} if 'state_dict' in content else content)"
        kept = f"{{name: value for name, value in {state}.items() if torch.is_tensor(value)}}"
        kept = f"{{'state_dict': {kept}}}" if self._path.suffix == ".ckpt" else kept
        safe = str(self._path.with_name(f"{self._path.stem}-safe{self._path.suffix}"))
        raise WeightsError(
            f"{self._path} is refused: its pickle asks for {asked}, which is no tensor and could run code. Get the weights as "
            ".safetensors, or convert the file where you trust it, by three lines of Python: "
            f"import torch; content = torch.load({str(self._path)!r}, map_location='cpu', weights_only=False); "
            f"torch.save({kept}, {safe!r})"
        ) from None

    def _read_zip(self, file: BinaryIO, length: int) -> object:
        records = read_directory(file, length)
        check_records(file, records)
        # torch reads the records of the folder that the first one lies in.
        roots = {name.partition("/")[0] for name in records}
        if len(roots) != 1:
            raise DamagedArchiveError(f"its records lie in {len(roots)} folders, and torch.save writes one")
        root = roots.pop()
        if f"{root}/constants.pkl" in records:
            raise WeightsError(f"{self._path} is a TorchScript program and no state: save the policy's state_dict.")
        program = records.get(f"{root}/data.pkl")
        if program is None:
            raise DamagedArchiveError("its record data.pkl is missing")
        if program.size > _LARGEST_PICKLE:
            raise DamagedArchiveError(f"its pickle has {program.size:,} bytes, more than any network's")

        def content_of(name: str) -> bytes:
            record = records[f"{root}/{name}"]
            file.seek(record.start)
            return file.read(record.size)

        order = records.get(f"{root}/byteorder")
        if order is not None and (order.size != len(b"little") or content_of("byteorder") != b"little"):
            raise DamagedArchiveError("its numbers are not in the order little")

        def storage(identity: object) -> _Storage:
            found = _storage(identity)
            record = records.get(f"{root}/data/{found.key}")
            if record is None:
                raise DamagedArchiveError(f"its record data/{found.key} is missing")
            self._hold_against(found, record.size, record.start)
            return found

        return read_pickle(io.BytesIO(content_of("data.pkl")), _known(), storage)

    def _read_row(self, file: BinaryIO, length: int) -> object:
        """Pickles of a magic number, a version, the machine, the content and the storages' keys; then the storages."""
        file.seek(0)
        pickles = io.BytesIO(file.read(_LARGEST_PICKLE))
        if read_pickle(pickles, {}) != _MAGIC or read_pickle(pickles, {}) != _LEGACY_VERSION:
            raise WeightsError(
                f"{self._path} was not written by torch.save: {GET_AGAIN}, or give it the ending of what it is."
            )
        machine = read_pickle(pickles, {})
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise DamagedPickleError("its numbers are not in the order little")
        storages: dict[str, _Storage] = {}

        def storage(identity: object) -> _Storage:
            found = _storage(identity)
            if storages.setdefault(found.key, found) != found:
                raise DamagedPickleError(f"it gives two sizes of storage {found.key}")
            return found

        content = read_pickle(pickles, _known(), storage)
        keys = read_pickle(pickles, {})
        if (
            not isinstance(keys, list)
            or not all(isinstance(key, str) for key in keys)
            or sorted(keys) != sorted(storages)
        ):
            raise DamagedPickleError("its list of storages is not that of its tensors")
        start = pickles.tell()
        for key in keys:
            file.seek(start)
            counted = file.read(_LENGTH.size)
            if len(counted) < _LENGTH.size or _LENGTH.unpack(counted)[0] != storages[key].numel:
                raise DamagedPickleError(f"its storage {key} is cut off or of another size than its tensors say")
            start += _LENGTH.size
            size = storages[key].numel * getattr(torch, storages[key].dtype).itemsize
            self._hold_against(storages[key], min(size, length - start), start)
            start += size
        if start != length:
            raise DamagedPickleError(f"it has {length - start:,} bytes behind its last storage")
        return content

    def _hold_against(self, storage: _Storage, size: int, start: int) -> None:
        """Note where a storage lies, if its bytes are all there and no more."""
        wanted = storage.numel * getattr(torch, storage.dtype).itemsize
        if size != wanted:
            raise DamagedArchiveError(f"its storage {storage.key} should have {wanted:,} bytes and has {size:,}")
        self._places[storage.key] = start

    def _named(self, content: object) -> tuple[dict[str, _Tensor], dict[str, str]]:
        lightning = isinstance(content, dict) and isinstance(content.get(_WRAPPED), dict)
        if lightning and self._path.suffix == ".weights":
            raise WeightsError(f"{self._path} is a Lightning checkpoint: rename it to end in .ckpt.")
        if not lightning and self._path.suffix == ".ckpt":
            raise WeightsError(
                f"{self._path} is no Lightning checkpoint, for it has no 'state_dict': if it is OpenAI's, rename it to "
                "end in .weights."
            )
        if not isinstance(content, dict):
            raise WeightsError(
                f"{self._path} holds {_kind(content)} and not a dict of tensors: name the file that "
                "torch.save wrote of a policy's state_dict."
            )
        tensors: dict[str, _Tensor] = {}
        others: dict[str, str] = {}
        waiting: list[tuple[str, object, int]] = [("", content, 0)]
        while waiting:
            name, value, depth = waiting.pop()
            if isinstance(value, dict) and depth < _DEEPEST:
                # What Lightning wraps is the policy's state itself, so its names stay as they are.
                inner = "" if not name or (lightning and name == _WRAPPED) else f"{name}."
                waiting.extend(
                    (f"{inner}{key}", part, depth + 1)
                    for key, part in value.items()
                    if isinstance(key, str) and len(key) <= _LONGEST_NAME
                )
                if len(waiting) + len(tensors) + len(others) > _MOST_NAMES:
                    raise WeightsError(
                        f"{self._path} holds more than {_MOST_NAMES:,} names, more than any network: save the policy's "
                        "state_dict alone."
                    )
            elif isinstance(value, _Tensor) and name in tensors:
                raise WeightsError(
                    f"{self._path} holds two tensors {name!r}, and it cannot be known which is meant: save the policy's "
                    "state_dict alone."
                )
            elif isinstance(value, _Tensor):
                tensors[name] = value
            else:
                others[name] = _kind(value)
        return tensors, others


def _kind(value: object) -> str:
    if isinstance(value, _Tensor):
        return "one tensor"
    return value.kind if isinstance(value, _Other) else type(value).__name__


def _storage(identity: object) -> _Storage:
    """What a persistent id stands for: ("storage", type, key, device, elements), and None behind in the older files."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage" or any(identity[5:]):
        raise DamagedPickleError("it describes a storage as torch never does")
    _, kind, key, _, count = identity[:5]
    if not isinstance(kind, str) or kind not in _STORAGES.values():
        raise DamagedPickleError("it holds a storage of a type that vpt_gym does not know")
    if not isinstance(key, str) or not _is_count(count):
        raise DamagedPickleError("it describes a storage as torch never does")
    return _Storage(key, kind, count)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _tensor(arguments: tuple[Any, ...]) -> object:
    """`_rebuild_tensor(storage, offset, size, stride)`, or `_rebuild_tensor_v2` with flags, hooks and metadata behind."""
    if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], _Storage):
        raise DamagedPickleError("it describes a tensor as torch never does")
    storage, offset, shape, strides = arguments[:4]
    for sizes in (shape, strides):
        if not isinstance(sizes, tuple) or len(sizes) > _MOST_AXES or not all(map(_is_count, sizes)):
            raise DamagedPickleError("it gives a tensor a shape that none has")
    if not _is_count(offset) or len(shape) != len(strides):
        raise DamagedPickleError("it describes a tensor as torch never does")
    count = prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and last >= storage.numel:
        raise DamagedPickleError(
            f"a tensor reaches to element {last:,} of storage {storage.key}, which has {storage.numel:,}"
        )
    if count > storage.numel:
        return _Other(f"a view that shows {count:,} numbers where {storage.numel:,} are stored")
    if arguments[6:] and arguments[6]:
        return _Other("a conjugated or negated view")
    return _Tensor(storage, offset, shape, strides)


def _first(arguments: tuple[Any, ...]) -> object:
    """A parameter is the tensor in it."""
    if not arguments:
        raise DamagedPickleError("it makes a parameter of nothing")
    return arguments[0]


def _with_attributes(arguments: tuple[Any, ...]) -> object:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor somebody has hung attributes on."""
    if len(arguments) != 4 or not isinstance(arguments[0], Build) or not isinstance(arguments[2], tuple):
        raise DamagedPickleError("it describes a tensor as torch never does")
    return _tensor(arguments[2]) if arguments[0].make is _tensor else _Other("tensor of a class of its own")


def _size(arguments: tuple[Any, ...]) -> object:
    return arguments[0] if len(arguments) == 1 else arguments


def _known() -> dict[str, object]:
    """The globals of a file of tensors. None is ever fetched or called: each stands for one of the functions above."""

    def other(kind: str) -> Build:
        return Build(lambda _: _Other(kind))

    known: dict[str, object] = {
        "collections.OrderedDict": Build(ordered_dict),
        "collections.Counter": other("Counter"),
        "_codecs.encode": other("bytes"),
        "__builtin__.set": other("set"),
        "builtins.set": other("set"),
        "builtins.bytearray": other("bytearray"),
        "builtins.complex": other("complex"),
        "torch.Size": Build(_size),
        "torch.device": other("device"),
        "torch.Tensor": "Tensor",
        "torch.nn.parameter.Parameter": "Parameter",
        "torch.serialization._get_layout": other("layout"),
        "torch._tensor._rebuild_from_type_v2": Build(_with_attributes),
        "torch._utils._rebuild_parameter": Build(_first),
        "torch._utils._rebuild_parameter_with_state": Build(_first),
        "torch._utils._rebuild_tensor": Build(_tensor),
        "torch._utils._rebuild_tensor_v2": Build(_tensor),
        "torch._utils._rebuild_tensor_v3": other("tensor of a rare type"),
        "torch._utils._rebuild_sparse_tensor": other("sparse tensor"),
        "torch._utils._rebuild_qtensor": other("quantised tensor"),
        "torch._utils._rebuild_meta_tensor_no_storage": other("tensor without numbers"),
        "torch._utils._rebuild_nested_tensor": other("nested tensor"),
        "torch.storage.UntypedStorage": "uint8",
    }
    known |= {f"torch.{name}": _Other("dtype") for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    for place in ("torch", "torch.cuda"):
        known |= {f"{place}.{name}Storage": dtype for name, dtype in _STORAGES.items()}
    return known
