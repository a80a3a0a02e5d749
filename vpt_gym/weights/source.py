"""From a source string to files on this machine, or to the request for untrained weights. No tensor is read here."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from vpt_gym.config import PRESETS
from vpt_gym.errors import WeightsError
from vpt_gym.weights.embedded import EMBEDDED, embedded_folder
from vpt_gym.weights.files import check_is_data, check_is_file
from vpt_gym.weights.folders import joining_tool
from vpt_gym.weights.hub import fetch
from vpt_gym.weights.shards import INDEX_SUFFIX, is_index, shard_names

__all__ = ["ResolvedSource", "Untrained", "resolve", "unchanged"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
_STANDARD_FILES = (WEIGHTS_FILE, WEIGHTS_FILE + INDEX_SUFFIX, TORCH_FILE, TORCH_FILE + INDEX_SUFFIX)
"""What a folder or a repository may hold its weights in, the best first."""
_WEIGHTS_SUFFIXES = (".safetensors", ".weights", ".ckpt", ".pt", ".pth", ".bin")
_SUFFIXES_OF_PATHS = (*_WEIGHTS_SUFFIXES, ".model", ".json", ".pkl", ".zip")
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^@\s]+))?")
_LARGEST_SEED = 2**63 - 1
_FORMS = (
    "a hub repository (owner/name or owner/name@revision), a folder with model.safetensors, a .safetensors, .weights, "
    f".ckpt, .pt, .pth or .bin file, {', '.join(EMBEDDED)} or random:<preset>"
)


@dataclass(frozen=True)
class Untrained:
    """Weights drawn at random, because the source asked for them by name."""

    preset: str
    seed: int


@dataclass(frozen=True)
class ResolvedSource:
    """A source whose files lie on this machine; nothing has been read from them yet.

    Attributes:
        source: the string that the user gave.
        weights: file that holds the tensors, or the index of several; None for untrained weights.
        declared: file that describes the architecture (`config.json` or `.model`), or None where there is none.
        untrained: preset and seed, or None where there are files.
        identity: equal for two sources that lead to the same bytes: path, time of change and size of each file, or
            preset and seed. Hashable, so that loaded weights can be shared inside a process.
        shards: the files that `weights` leads to where it is an index.
    """

    source: str
    weights: Path | None
    declared: Path | None
    untrained: Untrained | None
    identity: Hashable
    shards: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that will be read, tensors first."""
        return tuple(path for path in (self.weights, *self.shards, self.declared) if path is not None)


def resolve(source: str) -> ResolvedSource:
    """Find, and for a hub repository download, the files of a source.

    Args:
        source: a hub repository (`owner/name`, `owner/name@revision`) or a folder, with `model.safetensors`, or
            `pytorch_model.bin`, or the index and the parts of either, and perhaps `config.json`; a `.safetensors` file or an
            index; an OpenAI `.weights` file, described by the `.model` of the same name beside it or by `?model=PATH`; a
            Lightning `.ckpt` of MineStudio; any other file that torch.save wrote (`.pt`, `.pth`, `.bin`); `doom:mini`, which
            lies in the package; `random:<preset>`, perhaps with `?seed=N`.

    Returns:
        The files, and an identity under which loaded weights can be shared.

    Raises:
        WeightsError: the string is none of these, or what it names cannot be found or downloaded.
    """
    if not isinstance(source, str):
        raise WeightsError(f"A source of weights is a string, not {type(source).__name__}: give {_FORMS}.")
    if source.startswith("random:"):
        return _untrained(source)
    if source.startswith("doom:"):
        folder = embedded_folder(source)
        return _from_files(source, folder / WEIGHTS_FILE, folder / CONFIG_FILE)
    name, question_mark, query = source.partition("?")
    try:
        if source and (path := _path(source)).exists():
            return _local(source, path, None)
        if question_mark and name and (path := _path(name)).exists():
            return _local(source, path, _model_of(source, path, query))
    except OSError as error:
        raise WeightsError(f"{source!r} cannot be looked into ({error.strerror}): name what you may read.") from error
    if question_mark or not source.strip():
        raise WeightsError(f"{source!r} names no weights: give {_FORMS}.")
    if _looks_like_path(source):
        raise WeightsError(
            f"{source!r} looks like a path, but no file or folder is there: check the spelling, or give {_FORMS}."
        )
    repository = _HUB_ID.fullmatch(source)
    if repository is None:
        raise WeightsError(f"{source!r} is neither an existing file or folder nor a hub repository: give {_FORMS}.")
    weights, declared = fetch(repository["repo"], repository["revision"], _STANDARD_FILES, CONFIG_FILE)
    return _from_files(source, weights, declared)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):  # `~name` of a user that this machine does not have, or that none could have
        return Path(text)


def _untrained(source: str) -> ResolvedSource:
    preset, question_mark, query = source.removeprefix("random:").partition("?")
    if preset not in PRESETS:
        raise WeightsError(f"{source!r} asks for the unknown preset {preset!r}: choose from {', '.join(PRESETS)}.")
    seed = 0
    if question_mark:
        pairs = parse_qsl(query, keep_blank_values=True)
        if [key for key, _ in pairs] != ["seed"]:
            raise WeightsError(
                f"{source!r} has the unknown option {query!r}: the one option is seed, as in random:{preset}?seed=1."
            )
        text = pairs[0][1]
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST_SEED):
            raise WeightsError(
                f"{source!r} has the seed {text[:40]!r}: a seed is a whole number from 0 to {_LARGEST_SEED}."
            )
        seed = int(text)
    return ResolvedSource(source, None, None, Untrained(preset, seed), ("random", preset, seed))


def _looks_like_path(source: str) -> bool:
    first_part, _, rest = source.partition("@")[0].partition("/")
    return (
        source.startswith((".", "/", "~"))
        or "\\" in source
        or not rest
        or "/" in rest
        or rest.lower().endswith(_SUFFIXES_OF_PATHS)
        or not first_part
    )


def _model_of(source: str, weights: Path, query: str) -> Path:
    pairs = parse_qsl(query, keep_blank_values=True)
    if [key for key, _ in pairs] != ["model"] or weights.suffix != ".weights":
        raise WeightsError(
            f"{source!r} has the unknown option {query!r}: the one option of a file is ?model=PATH, for "
            "the .model that describes an OpenAI .weights file."
        )
    model = _path(pairs[0][1])
    if not model.is_file():
        raise WeightsError(
            f"{source!r} names the description {str(model)!r}, but no such file is there: correct it, "
            "or leave ?model= out, since the architecture is also read from the tensors."
        )
    return model


def _local(source: str, path: Path, model: Path | None) -> ResolvedSource:
    if path.is_dir():
        weights = _in_folder(path)
    else:
        weights = path
        if path.suffix == ".model":
            raise WeightsError(f"{str(path)!r} describes a network and holds no weights: name the .weights file.")
        if path.suffix not in _WEIGHTS_SUFFIXES and not is_index(path):
            raise WeightsError(
                f"{str(path)!r} ends in none of {', '.join(_WEIGHTS_SUFFIXES)}: give it the ending of "
                "what it is, so that it can be read as that."
            )
    if model is None:
        # A config.json belongs to the model.safetensors beside it, a .model to the .weights of its own name; any other
        # neighbour may describe another network. What is there and no file is an error when it is read, and not nothing.
        beside = weights.with_suffix(".model") if weights.suffix == ".weights" else weights.with_name(CONFIG_FILE)
        if os.path.lexists(beside) and (weights.suffix == ".weights" or weights.name in _STANDARD_FILES):
            model = beside
    return _from_files(source, weights, model)


def _in_folder(folder: Path) -> Path:
    """The file with a folder's weights, or the index of its files."""
    places = [folder / name for name in _STANDARD_FILES]
    found = [place for place in places if os.path.lexists(place) and not place.is_dir()]
    if not found:
        tool = joining_tool(folder)
        if tool is not None:
            raise WeightsError(f"The folder {str(folder)!r} is {tool}, and name the file that it writes.")
        others = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _WEIGHTS_SUFFIXES)
        remedy = f"it has {', '.join(others[:5])}: name the file itself" if others else "name a folder that has one"
        raise WeightsError(f"The folder {str(folder)!r} holds no {WEIGHTS_FILE}; {remedy}.")
    whole = found[0].name.removesuffix(INDEX_SUFFIX)
    if {folder / whole, folder / (whole + INDEX_SUFFIX)} <= set(found):
        raise WeightsError(
            f"The folder {str(folder)!r} holds both {whole} and {whole}{INDEX_SUFFIX}, and it cannot be known which of them is "
            "meant: name the file itself."
        )
    return found[0]


def _from_files(source: str, weights: Path, declared: Path | None) -> ResolvedSource:
    weights = weights.absolute()
    declared = declared.absolute() if declared is not None else None
    shards: tuple[Path, ...] = ()
    if is_index(weights):
        check_is_data(weights)
        shards = tuple(weights.with_name(name) for name in shard_names(weights))
        lost = [shard.name for shard in shards if not os.path.lexists(shard)]
        if lost:
            raise WeightsError(
                f"{weights} leads to {len(shards)} files, of which {len(lost)} are not beside it ({', '.join(lost[:5])}): get "
                "them from the same source."
            )
    files = [path for path in (weights, *shards, declared) if path is not None]
    for path in files:
        check_is_file(path)
    return ResolvedSource(source, weights, declared, None, _identity(files), shards)


def _identity(files: Sequence[Path]) -> Hashable:
    stats = [path.stat() for path in files]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in zip(files, stats, strict=True))


def unchanged(resolved: ResolvedSource) -> bool:
    """Whether the files of a source are there and still what they were when it was resolved."""
    try:
        return _identity(resolved.files) == resolved.identity
    except OSError:
        return False
