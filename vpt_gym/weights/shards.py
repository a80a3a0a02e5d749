"""Checkpoints in several files, as transformers and accelerate write large ones: an index says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vpt_gym.errors import WeightsError
from vpt_gym.weights.json_files import NotJSONError, parse_json
from vpt_gym.weights.tensors import GET_AGAIN, Take, TensorFile, TensorInfo

__all__ = ["INDEX_SUFFIX", "ShardedFile", "is_index", "shard_names"]

INDEX_SUFFIX = ".index.json"
_LARGEST = 2**24
_MOST_SHARDS = 1000
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def is_index(path: Path) -> bool:
    """Whether a file is the index of a checkpoint in several files, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def shard_names(index: Path) -> tuple[str, ...]:
    """The names of the files that an index leads to, which lie beside it; in alphabetical order.

    Raises:
        WeightsError: it is no index, or leads anywhere else than to files of tensors beside it.
    """
    return tuple(sorted(set(_weight_map(index).values())))


def _weight_map(index: Path) -> Mapping[str, str]:
    """The file of every tensor."""
    try:
        size = index.stat().st_size
        if size > _LARGEST:
            raise WeightsError(f"{index} has {size:,} bytes, more than any index: {GET_AGAIN}.")
        content = index.read_bytes()
    except OSError as error:
        raise WeightsError(f"{index} cannot be read ({error.strerror}): name a file that you may read.") from error
    try:
        data = parse_json(content)
    except NotJSONError as error:
        raise WeightsError(f"{index} is not JSON ({error}): {GET_AGAIN}.") from error
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index} is no index of a checkpoint, for it has no 'weight_map' of files: {GET_AGAIN}.")
    for name in set(places.values()):
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(_SUFFIXES):
            raise WeightsError(
                f"{index} leads to {name[:200]!r}, and the parts of a checkpoint are files of tensors ({', '.join(_SUFFIXES)}) "
                f"beside their index: {GET_AGAIN}."
            )
    if len(set(places.values())) > _MOST_SHARDS:
        raise WeightsError(f"{index} leads to more than {_MOST_SHARDS:,} files: {GET_AGAIN}.")
    return places


class ShardedFile:
    """The tensors of several files, as one.

    Args:
        index: the index, whose files have been opened.
        parts: the files, by the names that the index calls them.

    Raises:
        WeightsError: a tensor is not in the file that the index names, or lies in a second one too.
    """

    def __init__(self, index: Path, parts: Mapping[str, TensorFile]) -> None:
        self._parts = parts
        self._places = _weight_map(index)
        self._infos: dict[str, TensorInfo] = {}
        self.others: dict[str, str] = {}
        for part, file in parts.items():
            infos = file.infos()
            strays = [name for name in infos if self._places.get(name) != part]
            if strays:
                raise WeightsError(
                    f"{index}: {len(strays)} tensors of {part} are none of those that the index looks for there, such as "
                    f"{strays[0][:200]!r}: the files are not of one checkpoint, so get all of them again from their source."
                )
            self._infos |= infos
            self.others |= file.others
        missing = [name for name in self._places if name not in self._infos and name not in self.others]
        if missing:
            raise WeightsError(
                f"{index}: {len(missing)} tensors are not in the files that the index names, such as "
                f"{missing[0][:200]!r} in {self._places[missing[0]]}: get all of the files again from their source."
            )

    def infos(self) -> Mapping[str, TensorInfo]:
        """Shape and type of every tensor."""
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        """Read the named tensors, file by file."""
        for part, file in self._parts.items():
            inside = [name for name in names if self._places[name] == part]
            if inside:
                file.visit(inside, take)
