"""A folder that MineStudio takes for its own, with a stand-in for the Java engine: `with minecraft_engine(folder) as engine`.

Only environment variables change, so it also holds for processes started inside: MINESTUDIO_DIR names the folder, in which
lie an empty jar and, first on the PATH, a `java` that runs `engine_process.py`, and an `xvfb-run` that runs what it is given.
MineStudio binds some paths when its simulator is first imported: within one process, use one folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

__all__ = ["MinecraftEngine", "minecraft_engine"]

PROGRAM = Path(__file__).with_name("engine_process.py")


@dataclass(frozen=True)
class MinecraftEngine:
    """What the engines of one folder have done and shall do.

    Attributes:
        folder: what MINESTUDIO_DIR names.
    """

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables under which MineStudio finds this engine."""
        return {
            "MINESTUDIO_DIR": str(self.folder),
            "VPT_GYM_ENGINE": str(self.folder / "notes"),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "MINESTUDIO_GPU_RENDER": "0",
        }

    def prepare(self) -> None:
        """Puts everything into the folder."""
        jar = self.folder / "engine" / "build" / "libs" / "mcprec-6.13.jar"
        jar.parent.mkdir(parents=True)
        jar.touch()
        (self.folder / "notes").mkdir()
        (self.folder / "began").touch()
        programs = {"java": f'exec "{sys.executable}" -I "{PROGRAM}" "$@"', "xvfb-run": 'shift\nexec "$@"'}
        for name, command in programs.items():
            path = self.folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{command}\n")
            path.chmod(0o755)

    def fail(self, kind: str, after: int = 0) -> None:
        """Lets every engine go wrong from its step number `after` of a mission on; the 20 empty frames count.

        Args:
            kind: "crash", "hang", "short_picture", "broken_facts"; "no_start", "silent_start" for engines yet to start;
                "no_health", "respawn" (a death that the player survives at once), "mission_end".
            after: the first step that goes wrong.
        """
        (self.folder / "notes" / "faults.json").write_text(json.dumps({"kind": kind, "after": after}))

    def recover(self) -> None:
        """From now on nothing goes wrong."""
        (self.folder / "notes" / "faults.json").unlink(missing_ok=True)

    def forget(self) -> None:
        """As new: nothing noted, nothing going wrong."""
        for path in (self.folder / "notes").iterdir():
            path.unlink()
        (self.folder / "began").touch()

    def notes(self, key: str) -> list[Any]:
        """Values noted under `key`, engine by engine in the order in which they started.

        Keys are "started" (a start's arguments), "mission" (token), "seed" (of a mission), "size", "biome", "step" (its
        commands, verb to argument).
        """
        files = sorted((self.folder / "notes").glob("*.jsonl"), key=lambda path: path.stat().st_ctime_ns)
        entries = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        return [entry[key] for entry in entries if key in entry]

    def processes(self) -> list[psutil.Process]:
        """Processes with this folder in their command line that are there, dead ones that nobody waited for included.

        The dead have no command line any more: those of before, such as MineStudio's collector of another test, don't count.
        """
        import psutil  # not everywhere where tests are collected

        began = (self.folder / "began").stat().st_mtime
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                zombie_child = (
                    process.status() == psutil.STATUS_ZOMBIE
                    and process.ppid() == os.getpid()
                    and process.create_time() >= began
                )
                if zombie_child or any(str(self.folder) in part for part in process.cmdline()):
                    found.append(process)
        return found

    def run(self, command: Sequence[str], *, cwd: Path, timeout: float = 120) -> tuple[int, str]:
        """Runs a program under this engine; returns its exit status and what it wrote.

        MineStudio's collector, which outlives the program by up to ten seconds, would keep a pipe open: a file it is.
        """
        output = self.folder / "output.txt"
        with output.open("w") as file:
            done = subprocess.run(
                command,
                env={**os.environ, **self.variables},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        self.end_collector()
        return done.returncode, output.read_text()

    def end_collector(self) -> None:
        """Ends MineStudio's collector of orphaned games (its daemon.py), which looks every ten seconds whether to end."""
        database = self.folder / f"{os.uname().nodename}_tmp" / "database"
        if not database.exists():
            return
        import diskcache
        import psutil

        with diskcache.Cache(str(database)) as cache:
            pid, _ = cache.get("daemon", (None, None))
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid is not None and "daemon.py" in " ".join(psutil.Process(pid).cmdline()):
                process = psutil.Process(pid)
                process.kill()
                process.wait(timeout=30)


@contextlib.contextmanager
def minecraft_engine(folder: Path) -> Iterator[MinecraftEngine]:
    """Within it, MineStudio finds its engine in `folder`, a new or an empty one."""
    engine = MinecraftEngine(folder)
    engine.prepare()
    before = {name: os.environ.get(name) for name in engine.variables}
    os.environ.update(engine.variables)
    try:
        yield engine
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        engine.end_collector()
