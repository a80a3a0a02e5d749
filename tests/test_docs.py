"""What the documentation shows works: snippets and examples run, commands parse, links lead somewhere."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markdown import Block, anchors, blocks, commands, links
from tests.support.minestudio import require_minestudio
from vpt_gym.cli.main import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

ELSEWHERE = {"video_prediction_policy.py"}
"""Examples that need weights, which tests of their own make: tests/offline/test_video_policy.py."""

EXAMPLE_ARGUMENTS: dict[str, list[str]] = {
    "single_env.py": ["--episodes", "1"],
    "vector_env.py": ["--num-envs", "2", "--steps", "100"],
    "sb3_ppo.py": ["--steps", "128", "--n-envs", "2", "--eval-episodes", "1"],
    "linear_probe.py": ["--episodes", "4"],
    "clone_then_ppo.py": [
        *("--expert-steps", "64", "--n-envs", "1", "--demonstrations", "2", "--epochs", "2"),
        *("--steps", "64", "--seeds", "1", "--eval-episodes", "1"),
    ],
    "minecraft_finetune.py": [
        *("--encoder", "random:mini", "--n-envs", "2", "--episode", "12"),
        *("--rollout", "32", "--steps", "128"),  # two updates
    ],
}
"""Arguments that make an example short; one that is not named runs as it stands."""

IN_MINECRAFT = {"docs/minecraft.md", "examples/minecraft_finetune.py"}
"""What runs in MineStudio's simulator, here under a stand-in for its engine."""

LANGUAGES = {"", "python", "bash", "console", "json", "text", "toml"}
"""What a fence may say; a snippet fenced as `py` would run nowhere."""

RUN = "import pathlib, sys; path = pathlib.Path(sys.argv.pop()); exec(compile(path.read_text('utf-8'), path, 'exec'))"
"""Runs a page's snippets as a notebook would: worker processes do not import the main module again."""


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _python(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def _run(path: Path, arguments: list[str], folder: Path) -> None:
    """Runs Python in an empty folder, with warnings as errors."""
    if _id(path) not in IN_MINECRAFT:
        _run_here(arguments, folder)
        return
    require_minestudio()
    from tests.support.engine import minecraft_engine  # needs a package that comes with MineStudio

    with minecraft_engine(folder.with_name("engine")):
        # MineStudio starts its threads in a way that Python 3.10 deprecated, and its collector of dead games outlives us.
        _run_here(["-W", "ignore:setDaemon:DeprecationWarning", "-W", "ignore::ResourceWarning", *arguments], folder)


def _run_here(arguments: list[str], folder: Path) -> None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error", *arguments]
    # Into a file: a pipe would be waited for as long as any process holds it, such as a game engine whose worker crashed.
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command, stdout=output, stderr=output, check=False, cwd=folder, env=environment, timeout=600
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    """A page's snippets, in order, in one namespace and an empty folder; a traceback names the page's own lines."""
    shown = [block for block in _python(page) if block.not_run is None]
    if not shown:
        pytest.skip(f"{_id(page)} shows no Python that runs here")
    script = tmp_path / page.name
    lines: list[str] = []
    for block in shown:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    _run(page, ["-c", RUN, str(script)], folder)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_snippets_that_do_not_run_say_why_and_name_what_exists(page: Path) -> None:
    for block in _python(page):
        if block.not_run is None:
            continue
        assert re.match(r"needs \w+", block.not_run), f"line {block.line}: say what it needs: {block.not_run!r}"
        for name in _names(ast.parse(block.text)):
            pkgutil.resolve_name(name)


def _names(tree: ast.AST) -> set[str]:
    """Dotted names that start at vpt_gym."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "vpt_gym":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("vpt_gym."):
            found.add(ast.unparse(node))
    return {name for name in found if re.fullmatch(r"[\w.]+", name)}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_fences_use_known_languages(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_commands_parse(page: Path) -> None:
    for block in blocks(page):
        if block.language in {"bash", "console"}:
            for words in commands(block):
                _check_command(words)


def test_commands_in_the_help_parse(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["compare", "--help"],
        ["inspect", "--help"],
        ["bench", "--help"],
        ["encode", "--help"],
        ["clone", "--help"],
        ["diffuse", "--help"],
        ["probe", "--help"],
        ["nearest", "--help"],
    ):
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args(arguments)
        printed = capsys.readouterr().out
        assert "vpt-gym" in printed
        shown += re.findall(r"^ +(vpt-gym [a-z].*)$", re.sub(r" *\\\n *", " ", printed), flags=re.MULTILINE)
    assert len(shown) >= 4, "the help shows too few examples"
    for line in shown:
        _check_command(shlex.split(line))


def _check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "vpt-gym":
        try:
            build_parser().parse_args(arguments)
        except SystemExit as stop:
            if stop.code:
                pytest.fail(f"`{shlex.join(words)}` does not parse")
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
        wanted = {word for word in arguments if "=" not in word and not word.startswith("-")}
        assert wanted <= targets, f"`{shlex.join(words)}` names no target of the Makefile"
    elif program.startswith("python"):
        for word in arguments:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), f"`{shlex.join(words)}` runs a file that is not there"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link} leads nowhere"
        assert path.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{link}: no such heading"


def test_there_are_examples_and_no_stale_arguments() -> None:
    assert len(EXAMPLES) >= 5
    assert set(EXAMPLE_ARGUMENTS) <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=_id)
def test_examples_may_be_imported_by_worker_processes(example: Path) -> None:
    """Also those that run here without any, to be quick."""
    *_, last = ast.parse(example.read_text(encoding="utf-8")).body
    assert ast.unparse(last) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize("example", [path for path in EXAMPLES if path.name not in ELSEWHERE], ids=_id)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    _run(example, [str(example), *EXAMPLE_ARGUMENTS.get(example.name, [])], folder)
