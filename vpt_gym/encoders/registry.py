"""Encoders by name: the table of schemes, and `load_encoder`, which opens any of them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from vpt_gym.encoders.base import EncoderBase
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.errors import OptionError, VPTGymError, WeightsError

__all__ = ["Lent", "as_encoder", "load_encoder", "register_source", "schemes"]

Load = Callable[..., Encoder]

_TABLE: Final[dict[str, str]] = {
    "doom": "vpt:load_vpt",
    "efficientnet-lite0": "image:load_efficientnet_lite0",
    "frames": "frames:load_frames",
    "random": "vpt:load_vpt",
    "reset": "forgetful:load_reset",
    "timm": "image:load_timm",
    "video": "video:load_video",
}
"""Scheme to a module of this room and its function, one line a kind. By name, since what a module needs may be missing."""

_registered: dict[str, Load] = {}
_SCHEME: Final = re.compile(r"([a-z][a-z0-9-]+):")
_OF_MODULE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*):(?=[a-z][a-z0-9-]+:)")
"""A module in front of a scheme, as Gymnasium has it in front of an environment's id."""


def load_encoder(source: str, **options: Any) -> Encoder:
    """Opens an encoder of any kind, by its source.

    Args:
        source: VPT weights, which are a hub repository (`owner/name`, `owner/name@revision`), a folder with
            `model.safetensors`, a `.safetensors`, OpenAI `.weights` or Lightning `.ckpt` file; `doom:mini`, a small one trained
            on Doom, in the package itself; `random:<preset>`, untrained, perhaps with `?seed=N`; or `<scheme>:...` of another
            kind: see `vpt_gym.encoders.schemes()`.
        options: of that kind. VPT's are `device`, `precision`, `layer` and `backend`: see `vpt_gym.encoders.vpt.load_vpt`.

    Raises:
        WeightsError: the weights cannot be found, trusted, or are not what they should be.
        OptionError: the kind has no such option, or the option no such value.
    """
    return _opened(source, options)


def _opened(source: str, options: Mapping[Any, Any]) -> Encoder:
    """As `load_encoder`, for options that are no arguments yet, and may be called anything."""
    odd = [name for name in options if not isinstance(name, str)]
    if odd:
        raise OptionError(f"load_encoder({source!r}): an option's name is a string, not {odd[0]!r}.")
    inner = _without_module(source)
    scheme = _SCHEME.match(str(inner))
    load = _load_of(scheme[1]) if scheme else None
    if load is None:
        if scheme and (inner != source or not Path(source).exists()):
            known = ", ".join(f"{name}:" for name in (*_TABLE, *_registered))
            raise WeightsError(
                f"{source!r}: no kind of encoder is called {scheme[1]!r}; there are {known} and VPT weights in files, folders "
                f"and hub repositories; vpt_gym.register_source adds a kind of your own, which module:{scheme[0]}... imports."
            )
        load = _imported("vpt:load_vpt")
    # A name, since options are recorded as JSON values.
    options = {name: str(value) if isinstance(value, torch.device) else value for name, value in options.items()}
    signature = inspect.signature(load)
    try:
        signature.bind(inner, **options)
    except TypeError as error:
        names = [name for name, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
        raise OptionError(
            f"load_encoder({source!r}): {error}; the options of this kind of encoder are {', '.join(names) or 'none'}."
        ) from error
    encoder = load(inner, **options)
    if inner != source and isinstance(encoder, EncoderBase):
        # What a spec, a pickle and a run record: it must import the module again, in another process too.
        encoder.source = source
    return encoder


def _without_module(source: str) -> str:
    """What follows the module in front of a source, which is imported for what it registers."""
    found = _OF_MODULE.match(str(source))
    if found is None or _load_of(found[1]) is not None or Path(source).exists():
        return source
    try:
        importlib.import_module(found[1])
    except ModuleNotFoundError as error:
        if error.name is None or not f"{found[1]}.".startswith(f"{error.name}."):
            raise
        raise WeightsError(
            f"{source!r}: {found[1]!r} is neither a kind of encoder nor a module that can be imported from here; install the "
            "package, or put its folder into PYTHONPATH."
        ) from error
    return source[found.end() :]


def register_source(name: str, load: Load) -> None:
    """Adds a kind of encoder of one's own: from then on `load_encoder("<name>:...")` calls `load("<name>:...", **options)`.

    Args:
        name: the scheme: small letters, digits and hyphens, two at least.
        load: takes the source, and the kind's options as keyword-only arguments; returns an encoder.

    Worker processes and `vpt-gym` know it where they import the module that calls this: `<module>:<name>:...` has them do so.

    Raises:
        OptionError: the name is no such word, or one of vpt_gym's own.
    """
    if _SCHEME.fullmatch(f"{name}:") is None:
        raise OptionError(
            f"The name of a source must be small letters, digits and hyphens, two at least, not {name!r}."
        )
    if name in _TABLE:
        raise OptionError(f"{name!r} is a source of vpt_gym's own; choose another name.")
    _registered[name] = load


def schemes() -> dict[str, str]:
    """Every scheme that `load_encoder` knows, with the first line of what its loader says of itself."""
    found = {name: _load_of(name) for name in (*_TABLE, *_registered)}
    return {name: (inspect.getdoc(load) or "").partition("\n")[0] for name, load in found.items()}


class Lent:
    """An encoder that no source stands for, as a spec holds it: Gymnasium copies specs, and what is lent stays one.

    Attributes:
        encoder: the encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __deepcopy__(self, memo: dict[int, Any]) -> Lent:
        return self


def as_encoder(encoder: Encoder | Lent | str, options: Mapping[str, Any] | None) -> Encoder:
    """The encoder itself, or the one that a source string and its options name.

    Raises:
        OptionError: the options are no dict, or the kind of encoder has no such option, or the option no such value.
        VPTGymError: options came with an encoder that is loaded already, or `encoder` is neither.
    """
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(
            f'encoder_options must be a dict of options by their names, such as {{"layer": "cnn"}}, not {options!r:.100}.'
        )
    if isinstance(encoder, Lent):
        encoder = encoder.encoder
    if isinstance(encoder, str):
        return _opened(encoder, options or {})
    if isinstance(encoder, type) or not isinstance(encoder, Encoder):
        raise VPTGymError(
            f"encoder must be one of vpt_gym's encoders or a source string, not a {type(encoder).__name__}; load_encoder makes "
            "one from weights, vpt_gym.minestudio.encoder_from_policy from a policy of MineStudio."
        )
    if options is not None:
        raise VPTGymError(
            "encoder_options go with a source string; this encoder is loaded already, with its own options."
        )
    return encoder


def _load_of(name: str) -> Load | None:
    if name in _TABLE:
        return _imported(_TABLE[name])
    return _registered.get(name)


def _imported(place: str) -> Load:
    module, _, name = place.partition(":")
    load: Load = getattr(importlib.import_module(f"vpt_gym.encoders.{module}"), name)
    return load
