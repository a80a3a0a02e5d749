"""Models of diffusers and transformers in folders and hub repositories: every tensor from safetensors files, or an error."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from torch import nn

from vpt_gym.errors import WeightsError
from vpt_gym.extras import import_extra, let_torchvision_import

__all__ = ["folder_of", "load_model", "package", "read_json", "reading"]

_HUB_ID: Final = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^@\s]+))?")

ELSEWHERE: Final = (
    "name a revision that has them: the hub's own conversions often stand at a pull request, such as "
    "owner/name@refs/pr/15"
)
"""What to do about a repository whose main branch holds pickles."""


def package(name: str, user: str) -> Any:
    """diffusers or transformers, which the extra `video` brings.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra(name, "video", user)


def folder_of(place: str, parts: Sequence[str], source: str) -> Path:
    """A folder with the files of a saved pipeline or model; what a hub repository has of them is downloaded once.

    Only JSON, vocabularies and safetensors are downloaded: no pickles, no code.

    Args:
        place: a folder, or `owner/name[@revision]`.
        parts: names of the subfolders that are wanted; `""` for the top.
        source: what messages call it.

    Raises:
        WeightsError: there is neither such a folder nor such a repository, it cannot be had, or it has no safetensors.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    repository = _HUB_ID.fullmatch(place)
    if path.exists() or repository is None:
        raise WeightsError(
            f"{source!r}: {place!r} is neither a folder nor a hub repository (owner/name or owner/name@revision); name the "
            "folder that holds model_index.json, or of a text encoder its config.json."
        )
    from huggingface_hub import errors, snapshot_download

    endings = ("*.json", "*.txt", "*.safetensors")
    patterns = [f"{part}/{ending}" if part else ending for part in parts for ending in endings]
    try:
        found = snapshot_download(
            repository["repo"],
            revision=repository["revision"],
            allow_patterns=["model_index.json", *patterns],
            ignore_patterns=["*.fp16.safetensors", "*.non_ema.safetensors", "*.fp16.*", "*.non_ema.*"],
        )
    # HTTPError and OSError: the hub's and the system's; RuntimeError: all that its second way of downloading raises.
    except (errors.HTTPError, errors.HFValidationError, OSError, RuntimeError) as error:  # type: ignore[attr-defined, unused-ignore]
        raise WeightsError(
            f"{source!r}: {place!r} is no folder here, and cannot be had from the hub "
            f"({(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')}); check the spelling and the "
            "connection, or download it by other means and name its folder."
        ) from error
    folder = Path(found)
    if not any(folder.rglob("*.safetensors")):
        raise WeightsError(
            f"{source!r}: {place!r} has no .safetensors files on the hub, and others, which are pickles, are not read; "
            f"{ELSEWHERE}; or save it anew with save_pretrained(..., safe_serialization=True) and name that folder."
        )
    return folder


def load_model(library: Any, name: str, folder: Path, source: str) -> nn.Module:
    """A model of diffusers or transformers, float32 and frozen, every tensor of it from the folder's safetensors files.

    Raises:
        WeightsError: there are none, they are damaged, or a tensor is missing, too many or of another shape.
    """
    with reading(folder, source):
        loaded = getattr(library, name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    model, info = loaded
    # Both libraries draw what is missing at random, and say so in a warning at most.
    for words, key in (("lacks", "missing_keys"), ("has, of another shape,", "mismatched_keys")):
        odd = sorted(str(each) for each in info.get(key) or ())
        if odd:
            raise WeightsError(
                f"{source!r}: {folder} {words} {odd[0]} ({len(odd)} tensors); get the whole model from its source."
            )
    frozen: nn.Module = model.float().eval().requires_grad_(requires_grad=False)
    return frozen


@contextmanager
def reading(folder: Path, source: str) -> Iterator[None]:
    """Inside, what the libraries say of folders that they cannot read becomes a WeightsError; their advice and bars
    are silent."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = package("transformers", source).utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(
            f"{source!r}: {folder} cannot be loaded from .safetensors files ({said}); other files, which are pickles, are not "
            "read: save the pipeline anew with save_pretrained(..., safe_serialization=True); or, of a hub repository, "
            f"{ELSEWHERE}."
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_json(path: Path, source: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        WeightsError: there is no such file, or it holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{source!r}: {path.parent} holds no {path.name} ({error.strerror}); name a folder that a pipeline of diffusers "
            "was saved in."
        ) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source!r}: {path} is not JSON ({error}); get it again from its source.") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{source!r}: {path} holds a {type(values).__name__}, not an object; get it again.")
    return values
