"""What importing vpt_gym loads, what it offers, and which of its rooms may look into which."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import vpt_gym

ROOT = Path(__file__).parents[1]

PUBLIC = [
    "LatentStream",
    "VPTConfig",
    "VPTEncoder",
    "VPTGymError",
    "VPTLatentObservation",
    "encoder_from_module",
    "encoders",
    "envs",
    "heads",
    "load_encoder",
    "load_network",
    "minestudio",
    "offline",
    "register_source",
    "save_checkpoint",
    "sb3",
    "vector",
]

HEAVY = {
    "huggingface_hub",
    "matplotlib",
    "minestudio",
    "ray",
    "sb3_contrib",
    "stable_baselines3",
    "tensorboard",
    "vizdoom",
}
"""What `import vpt_gym` must not load: each costs seconds, or is not installed everywhere."""

MODULES = sorted(module.name for module in pkgutil.walk_packages(vpt_gym.__path__, "vpt_gym."))
MODULES.remove("vpt_gym.cli.__main__")


def _loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` of a new process that ran `code`."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-W", "error", "-c", f"{code}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import vpt_gym\nvpt_gym.VPTEncoder\nvpt_gym.load_encoder\nvpt_gym.VPTLatentObservation")
    assert {"torch", "gymnasium"} <= loaded, "the report does not see what is loaded"
    assert loaded & HEAVY == set()


def test_importing_the_package_registers_the_environment_and_loads_no_torch() -> None:
    code = "import vpt_gym, gymnasium\nassert gymnasium.spec('vpt_gym/Minecraft-v0').id == 'vpt_gym/Minecraft-v0'"
    assert "torch" not in _loaded_by(code)


def test_the_vector_wrapper_loads_no_sb3() -> None:
    assert _loaded_by("import vpt_gym\nvpt_gym.vector.VPTLatentObservation") & HEAVY == set()


def test_the_sb3_wrapper_loads_sb3_when_asked_for() -> None:
    assert "stable_baselines3" in _loaded_by("import vpt_gym\nvpt_gym.sb3.VecVPTLatent")


def test_the_public_names() -> None:
    assert vpt_gym.__all__ == PUBLIC
    for name in vpt_gym.__all__:
        assert getattr(vpt_gym, name) is not None


def test_the_version_is_the_distributions() -> None:
    try:
        installed = metadata.version("vpt-gym")
    except metadata.PackageNotFoundError:
        pytest.skip("vpt_gym runs from its source tree without being installed (`make env` installs it)")
    assert vpt_gym.__version__ == installed


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="VPTEncodr"):
        _ = vpt_gym.VPTEncodr


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, "no docstring"
    is_package = hasattr(module, "__path__")
    if is_package and not hasattr(module, "__all__"):
        own = {key for key, value in vars(module).items() if getattr(value, "__module__", None) == name}
        assert own == set(), "a package without __all__ defines nothing of its own"
        return
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [each for each in module.__all__ if not hasattr(module, each)]
    assert missing == []


def test_the_rooms_look_one_way() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
