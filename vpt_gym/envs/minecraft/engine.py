"""The Java engine under one MinecraftSim: is it there, started, watched at every message, and gone when it should be."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vpt_gym.encoders.minestudio.package import check_installed, import_minestudio
from vpt_gym.envs.minecraft.quiet import printing_to_log
from vpt_gym.errors import EnvironmentCrashed, VPTGymError

__all__ = ["Engine", "check_engine"]

JAR: Final = Path("engine", "build", "libs", "mcprec-6.13.jar")

LOG_FOLDER: Final = "MALMO_MINECRAFT_OUTPUT_LOGDIR"
"""Environment variable of MineStudio's: under which folder `logs/` gets the game's output."""

FAULTS: Final = (
    *(OSError, EOFError, RuntimeError, struct.error),  # no process, no connection, no answer in time
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError),  # an answer that MineStudio cannot read
)
"""What MineStudio's messenger raises when the game is gone or answers nonsense."""

NO_BYTES: Final = (
    "a bytes-like object is required, not 'NoneType'",
    "object of type 'NoneType' has no len()",
    "'NoneType' object has no attribute 'decode'",
)
"""How MineStudio fails on a message that ended early, for which its `recv_message` returns None."""

_launching = threading.Lock()
_launches: list[int] = []
"""Threads that launch a game whose log goes to the default folder."""


def check_engine() -> None:
    """Raises VPTGymError, with the command to run, unless MineStudio, its engine and what that runs on are there."""
    check_installed("vpt_gym/Minecraft-v0")
    named = os.environ.get("MINESTUDIO_DIR")
    if named and not Path(named).is_dir():  # MineStudio would make it
        raise VPTGymError(
            f"The environment variable MINESTUDIO_DIR names {named}, which is no folder; let it name the folder that has "
            "Minecraft's engine, or that shall get it."
        )
    folder = Path(import_minestudio("minestudio.utils").get_mine_studio_dir())
    if not (folder / JAR).exists():
        raise VPTGymError(
            f"Minecraft's engine is not in {folder}; download it (some GB) with: python -m minestudio.simulator.entry -y; "
            "or name the folder that has it in the environment variable MINESTUDIO_DIR."
        )
    if shutil.which("java") is None:
        raise VPTGymError(
            "Minecraft's engine runs on Java 8, and no `java` is on the PATH; install it with: "
            "conda install -c conda-forge openjdk=8, or: apt-get install openjdk-8-jdk"
        )
    renders_on_gpu = os.environ.get("MINESTUDIO_GPU_RENDER") == "1"
    if platform.system() == "Linux" and not renders_on_gpu and shutil.which("xvfb-run") is None:
        raise VPTGymError(
            "Minecraft's engine draws into a virtual screen, and no `xvfb-run` is on the PATH; install it with: "
            "apt-get install xvfb libgl1-mesa-dri"
        )


class Engine:
    """One engine process, and the messenger (MineStudio's MineRL environment) that speaks with it.

    Every message passes through `step` and `reset` here, whoever sends it: MinecraftSim or a callback. A fault is raised as
    EnvironmentCrashed on the spot, before anybody sees the random observation that MineStudio would put in its place.

    Args:
        sim: a MinecraftSim; its messenger's `step`, `reset`, `close` and launch are replaced by this object's.
        launch_timeout: seconds that the game may take to come up.

    Attributes:
        world_seed: of the world that is open, None if the game chose it.
    """

    def __init__(self, sim: Any, launch_timeout: float) -> None:
        self._messenger = sim.env
        self._launch_timeout = launch_timeout
        self._instance: Any = None
        self.world_seed: int | None = None
        self._their_step, self._their_reset = self._messenger.step, self._messenger.reset
        self._messenger.step, self._messenger.reset = self.step, self.reset
        self._messenger._get_new_instance, self._messenger.close = self._launch, self.stop

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        process = None if self._instance is None else self._instance.minecraft_process
        return process is not None and process.poll() is None

    @property
    def finished(self) -> bool:
        """Whether the running mission has ended, so that the game takes no more actions."""
        return bool(self._messenger.done)

    def step(self, single_agent_action: dict[str, Any]) -> tuple[Any, float, bool, dict[str, Any]]:
        """One step of the game.

        Raises:
            EnvironmentCrashed: the game is gone, did not answer in time or answered nonsense; it has been stopped.
        """
        with self._faults_are_crashes("while it made a step"):
            observation, reward, done, info = self._their_step(single_agent_action)
            if "error" in info:
                raise ConnectionError(str(info["error"]))
        return observation, float(reward), bool(done), info

    def reset(self) -> Any:
        """Opens a world in the game, which is started first where it is not running.

        Raises:
            EnvironmentCrashed: the game does not come up, or breaks off; it has been stopped.
        """
        if not self.running:
            self.stop()
        self.world_seed = self._messenger._seed
        with self._faults_are_crashes("while it came up and opened a world"):
            return self._their_reset()

    def check_mission(self) -> None:
        """Raises EnvironmentCrashed if the mission has ended before the caller saw anything of it."""
        if self.finished:
            raise EnvironmentCrashed(
                "Minecraft ended the mission while it was being reset; the next reset starts the game anew."
            )

    def _launch(self) -> Any:
        """Starts the game, in a thread of MineStudio's, which lets only some environments of a machine do so at a time."""
        malmo = import_minestudio("minestudio.simulator.minerl.env.malmo")
        with printing_to_log():
            with _launching:  # it looks for a free port and for a free place in a list of the process's
                instance = self._instance = malmo.InstanceManager.get_instance(os.getpid())
            with _log_folder(), _killed_after(self._launch_timeout, instance):
                instance.launch(replaceable=True)
        # Before MineStudio's own hook, which finds the game busy with the open connection and reports an error.
        atexit.register(self.stop)
        instance.had_to_clean = False
        return instance

    def stop(self) -> None:
        """Ends the process and whatever it started, and waits until they are gone. Does nothing where none is.

        Nor in a fork of the process that launched it: the game is not the fork's to end.
        """
        atexit.unregister(self.stop)
        instance, self._instance = self._instance, None
        self._messenger.instances = []
        if instance is None or instance.owner != os.getpid():
            return
        import psutil  # MineStudio's

        if instance.client_socket is not None:
            instance.client_socket.close()
        process, launched = instance.minecraft_process, []
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                launched = process.children(recursive=True)
        instance.close()
        if process is not None:
            process.wait(timeout=60)
            process.stdout.close()
        # The game is the launch script's child, not ours: who waits for the script has not waited for it.
        deadline = time.monotonic() + 60
        while any(_lives(each) for each in launched) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _has_ended(self) -> bool:
        """Whether the process is gone, or goes within half a second: a connection breaks before its process has ended."""
        for _ in range(10):
            if not self.running:
                return True
            time.sleep(0.05)
        return False

    @contextlib.contextmanager
    def _faults_are_crashes(self, when: str) -> Iterator[None]:
        handled_already = sys.exc_info()[1]
        try:
            yield
        except FAULTS as error:
            cause = _first_cause(error, handled_already)
            what = "Minecraft's process ended" if self._has_ended() else "Minecraft broke off"
            self.stop()
            raise EnvironmentCrashed(
                f"{what} {when}. MineStudio reports: {cause}. The game's log is in {_logs()}; reset starts it anew."
            ) from error
        except BaseException:
            # Such as a KeyboardInterrupt: an unread answer would be taken for that to the next message.
            self.stop()
            raise


def _lives(process: Any) -> bool:
    """Whether a process is there and not dead: in a container there may be nobody who takes in what it has left."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _first_cause(error: BaseException, handled_already: BaseException | None) -> str:
    """The first error of a chain: on a lost connection MineStudio draws a random observation, which fails in its turn."""
    while True:
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None or earlier is handled_already:
            break
        error = earlier
    if str(error) in NO_BYTES:
        return "the connection broke before the answer was through"
    last_lines = " | ".join(line.strip() for line in str(error).splitlines()[-5:] if line.strip()).rstrip(".")
    return f"{type(error).__name__}: {last_lines}" if last_lines else type(error).__name__


def _logs() -> Path:
    folder = os.environ.get(LOG_FOLDER)
    return Path(folder or import_minestudio("minestudio.utils").get_mine_studio_dir()) / "logs"


@contextlib.contextmanager
def _log_folder() -> Iterator[None]:
    """The game's log goes beside the engine unless the user says where; MineStudio would put it in the working directory.

    MineStudio looks when the game has come up, so the variable stays until the last of those that launch at once is done.
    """
    with _launching:
        ours = bool(_launches) or LOG_FOLDER not in os.environ
        if ours:
            os.environ[LOG_FOLDER] = str(_logs().parent)
            _launches.append(threading.get_ident())
    try:
        yield
    finally:
        with _launching:
            if ours:
                _launches.pop()
                if not _launches:
                    del os.environ[LOG_FOLDER]


@contextlib.contextmanager
def _killed_after(seconds: float, instance: Any) -> Iterator[None]:
    """Kills a game that says nothing: MineStudio would wait for its first word for ever."""
    killed = threading.Event()

    def kill() -> None:
        if instance.minecraft_process is not None:
            killed.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(instance.minecraft_process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    except EOFError:
        if killed.is_set():
            raise TimeoutError(f"the game was not ready after {seconds:g} s (launch_timeout)") from None
        raise
    finally:
        timer.cancel()
