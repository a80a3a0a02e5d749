"""The stand-in for Minecraft's Java engine: a process that speaks MineStudio's socket protocol and plays real videos.

MineStudio starts it through its own launch script, as `java -Xmx2G -jar mcprec-6.13.jar --envPort=9000`; the `java` it finds
is the one that `tests.support.engine` put on the PATH. Everything comes in by the environment: VPT_GYM_ENGINE names a
folder, in which `faults.json` says what shall go wrong (read at every step), and `<pid>.jsonl` notes what came.

A message is a length (4 bytes, big-endian) and as many bytes. What comes, and what is answered:
    <MalmoEnv0.37.0/>              opens a connection; nothing
    <Quit/>                        1
    <MissionInit ...>, then token  1; the token is uid:role:resets:agents:synchronous, and the seed if there is one
    <Peek/>                        picture, facts as JSON, whether the mission is done
    <StepClient0>commands</...>    picture, (reward, done, sent), facts as JSON
    <StepServer>, <Disconnect/>    nothing
    <Exit>                         1, and the process ends
A picture is RGB, its lowest row first.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FOLDER = Path(os.environ["VPT_GYM_ENGINE"])
SLOTS = ("mainhand", "offhand", "head", "chest", "legs", "feet")
LIFE = 20.0


def faults() -> dict[str, Any]:
    path = FOLDER / "faults.json"
    return json.loads(path.read_text()) if path.exists() else {}


def note(**entry: Any) -> None:
    with (FOLDER / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def receive(connection: socket.socket) -> bytes | None:
    def exactly(count: int) -> bytes | None:
        parts = b""
        while len(parts) < count:
            part = connection.recv(count - len(parts))
            if not part:
                return None
            parts += part
        return parts

    length = exactly(4)
    return None if length is None else exactly(struct.unpack("!I", length)[0])


def send(connection: socket.socket, *messages: bytes) -> None:
    for message in messages:
        connection.sendall(struct.pack("!I", len(message)) + message)


class World:
    """One mission: a stretch of a video from a place that the seed chooses, and what the player has done."""

    def __init__(self, mission: str, token: str) -> None:
        self.width = int(re.search(r"<Width>\s*(\d+)", mission).group(1))  # type: ignore[union-attr]
        self.height = int(re.search(r"<Height>\s*(\d+)", mission).group(1))  # type: ignore[union-attr]
        parts = token.split(":")
        self.seed = int(parts[5]) if len(parts) > 5 else None
        biome = re.search(r"<PreferredSpawnBiome[^>]*>\s*([^<]*)", mission)
        note(mission=token, seed=self.seed, size=[self.width, self.height], biome=biome and biome.group(1).strip())
        chosen = random.Random(self.seed)
        spec = importlib.util.find_spec("minestudio")
        videos = sorted(Path(spec.submodule_search_locations[0]).glob("benchmark/auto_eval/eval_video/*/*.mp4"))  # type: ignore[union-attr, index]
        self.path = chosen.choice(videos)
        self.video = cv2.VideoCapture(str(self.path))
        for _ in range(chosen.randrange(200)):
            self.video.grab()
        self.steps = 0
        self.health = LIFE
        self.custom = {"deaths": 0, "jump": 0}
        self.mined: dict[str, int] = {}
        self.killed: dict[str, int] = {}
        self.inventory = dict.fromkeys(range(36), ("none", 0))
        self.pitch, self.yaw = 0.0, 0.0
        self.extra: dict[str, Any] = {}

    def picture(self) -> bytes:
        found, bgr = self.video.read()
        if not found:
            self.video = cv2.VideoCapture(str(self.path))
            _, bgr = self.video.read()
        if bgr.shape[:2] != (self.height, self.width):
            bgr = cv2.resize(bgr, (self.width, self.height))
        return np.ascontiguousarray(bgr[::-1, :, ::-1]).tobytes()

    def facts(self) -> dict[str, Any]:
        item = json.dumps({"type": "air", "damage": 0, "maxDamage": 0})
        return {
            "isGuiOpen": False,
            "xpos": self.steps * 0.25,
            "ypos": 64.0,
            "zpos": -3.5,
            "pitch": self.pitch,
            "yaw": self.yaw,
            "health": self.health,
            "food_level": 20,
            "biome_id": 4,
            "can_see_sky": 1,
            "light_level": 15,
            "inventory": [
                {"slot_id": slot, "type": kind, "quantity": count} for slot, (kind, count) in self.inventory.items()
            ],
            "equipped_items": dict.fromkeys(SLOTS, item),
            "mine_block": self.mined,
            "kill_entity": self.killed,
            "custom": self.custom,
            **self.extra,
        }

    def act(self, commands: dict[str, str]) -> None:
        self.steps += 1
        self.health = LIFE
        if commands.get("attack") == "1":  # each stroke fells a log
            self.mined["oak_log"] = self.mined.get("oak_log", 0) + 1
        if commands.get("jump") == "1":
            self.custom["jump"] += 1
        down, right = (float(part) for part in commands.get("camera", "0 0").split())
        self.pitch, self.yaw = self.pitch + down, self.yaw + right
        self.extra = {}
        if "voxels" in commands and commands["voxels"] != "0,0,0,0,0,0":
            self.extra["voxels"] = [{"x": 0, "y": -1, "z": 0, "type": "grass_block"}]
        chat = commands.get("chat", "")
        if chat == "/kill":  # the player dies and stands up again, as after MineStudio's fast reset
            self.custom["deaths"] += 1
        given = re.match(r"/replaceitem entity @p \S+ minecraft:(\S+) (\d+)", chat)
        if given:
            free = next(slot for slot, (kind, _) in self.inventory.items() if kind == "none")
            self.inventory[free] = (given.group(1), int(given.group(2)))


def serve(listener: socket.socket) -> None:
    world: World | None = None
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (message := receive(connection)) is not None:
            text = message.decode()
            if text.startswith("<MissionInit") or "<MissionInit" in text[:200]:
                token = receive(connection)
                if token is None:
                    break
                world = World(text, token.decode())
                send(connection, struct.pack("!I", 1))
            elif text.startswith("<Quit"):
                send(connection, struct.pack("!I", 1))
            elif text.startswith("<Peek"):
                assert world is not None
                send(connection, world.picture(), json.dumps(world.facts()).encode(), struct.pack("!b", 0))
            elif text.startswith("<StepClient"):
                assert world is not None
                step(connection, world, text)
            elif text.startswith("<Exit"):
                send(connection, struct.pack("!I", 1))
                return
            elif text.startswith("<Disconnect"):
                break
        connection.close()


def step(connection: socket.socket, world: World, text: str) -> None:
    body = text[text.index(">") + 1 : text.rindex("</")]
    commands = dict(line.strip().split(" ", 1) for line in body.strip().splitlines() if " " in line.strip())
    note(step=commands)
    world.act(commands)
    wanted = faults()
    due = world.steps >= wanted.get("after", 0)
    kind = wanted.get("kind") if due else None
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "short_picture":
        send(connection, b"\0" * 100, struct.pack("!dbb", 0.0, 0, 1), json.dumps(world.facts()).encode())
        return
    if kind == "broken_facts":
        send(connection, world.picture(), struct.pack("!dbb", 0.0, 0, 1), b'{"xpos": ')
        return
    if kind == "no_health":
        world.health = 0.0
    if kind == "respawn":
        world.custom["deaths"] += 1
    done = kind == "mission_end"
    picture = world.picture()
    send(connection, picture, struct.pack("!dbb", 0.0, int(done), 1), json.dumps(world.facts()).encode())


def main() -> None:
    port = next(int(part.partition("=")[2]) for part in sys.argv if part.startswith("--envPort="))
    note(started=sys.argv[1:], folder=str(Path.cwd()))
    wanted = faults().get("kind")
    if wanted == "no_start":
        print("java.lang.OutOfMemoryError: Java heap space", flush=True)
        sys.exit(1)
    if wanted == "silent_start":
        time.sleep(600)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    print(f"[LOG] ***** Start MalmoEnvServer on port {port}", flush=True)
    print("[LOG] CLIENT enter state: DORMANT", flush=True)
    serve(listener)


if __name__ == "__main__":
    main()
