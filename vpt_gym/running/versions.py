"""Which packages a run was made with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

__all__ = ["differences", "package_version", "versions"]

PACKAGES = (
    *(
        "vpt-gym",
        "torch",
        "stable-baselines3",
        "sb3-contrib",
        "gymnasium",
        "numpy",
        "vizdoom",
        "minestudio",
        "timm",
        "ray",
    ),
)


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python and every installed package that can change a result."""
    found = {name: package_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: v for name, v in found.items() if v is not None}}


def differences(recorded: Mapping[str, str]) -> list[str]:
    """What is installed here in another version than was recorded, or not at all: a few words for each."""
    here = versions()
    return [
        f"{name} {then} then, {here.get(name, 'not installed')} now"
        for name, then in recorded.items()
        if here.get(name) != then
    ]
