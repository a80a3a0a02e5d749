"""Which packages a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version", "versions"]

PACKAGES = ("vpt-gym", "torch", "stable-baselines3", "gymnasium", "numpy", "vizdoom", "minestudio", "timm")


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
