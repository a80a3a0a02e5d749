"""What a checkpoint's companion file declares, MineStudio's `config.json` or OpenAI's `.model`: architecture, temperature."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from vpt_gym.errors import WeightsError
from vpt_gym.weights.files import check_is_data
from vpt_gym.weights.json_files import NotJSONError, parse_json
from vpt_gym.weights.pickles import plain_data

__all__ = ["read_declared", "read_temperature"]

_LARGEST = 2**20
_LONGEST_NUMBER = 40
_IN_MODEL = ("model", "args", "net", "args")
_IN_CONFIG = ("policy_kwargs",)
_HEAD_IN_MODEL = ("model", "args", "pi_head_opts")
_TEMPERATURE = "temperature"


def read_declared(path: Path) -> Mapping[str, object]:
    """Read the keyword arguments of MinecraftPolicy from a `config.json` or a `.model`.

    Args:
        path: the file. The format goes by its name: JSON for `.json`, a pickle for anything else.

    Returns:
        The arguments; empty for a JSON file that says nothing about the network.

    Raises:
        WeightsError: the file is not of its format, is untrustworthy, or its arguments are not where they belong.
    """
    data = _content(path)
    if path.suffix != ".json":
        return _arguments(path, data, _IN_MODEL)
    if isinstance(data, dict) and _IN_CONFIG[0] not in data:
        return {}
    return _arguments(path, data, _IN_CONFIG)


def read_temperature(path: Path) -> object:
    """Read the temperature of the action head from a `config.json` or a `.model`.

    Args:
        path: the file. The format goes by its name: JSON for `.json`, a pickle for anything else.

    Returns:
        What the file gives as the temperature, of whatever type; None where a `config.json` is silent about it.

    Raises:
        WeightsError: the file is not of its format, is untrustworthy, or is a `.model` without a temperature.
    """
    data = _content(path)
    if path.suffix == ".json":
        return data.get(_TEMPERATURE) if isinstance(data, dict) else None
    options: object = data
    for key in _HEAD_IN_MODEL:
        options = options.get(key) if isinstance(options, dict) else None
    if not isinstance(options, dict) or options.get(_TEMPERATURE) is None:
        where = "".join(f"[{key!r}]" for key in (*_HEAD_IN_MODEL, _TEMPERATURE))
        raise WeightsError(
            f"{path} holds no temperature of the action head at {where}: name the description that belongs to the weights, "
            "or move it aside, and the heads take the 2.0 of OpenAI's agent."
        )
    found = options[_TEMPERATURE]
    # OpenAI's files have it as text, and OpenAI's agent puts it through float().
    if isinstance(found, str) and len(found) <= _LONGEST_NUMBER:
        with contextlib.suppress(ValueError):
            return float(found)
    return found


def _content(path: Path) -> object:
    check_is_data(path)
    if path.stat().st_size > _LARGEST:
        raise WeightsError(
            f"{path} has {path.stat().st_size:,} bytes, and a description of a network has a few thousand: "
            "name the right file, or move it aside, since the tensors tell as much."
        )
    content = path.read_bytes()
    if path.suffix != ".json":
        return plain_data(path, content)
    try:
        return parse_json(content)
    except NotJSONError as error:
        raise WeightsError(
            f"{path} is not JSON ({error}): get it again from its source, or move it aside, since the "
            "architecture is also read from the tensors."
        ) from error


def _arguments(path: Path, data: object, keys: tuple[str, ...]) -> Mapping[str, object]:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        where = "".join(f"[{key!r}]" for key in keys)
        raise WeightsError(
            f"{path} holds no dict of network arguments at {where}: name the description that belongs to "
            "the weights, or move it aside, since the tensors tell as much."
        )
    return {str(key): value for key, value in data.items()}
