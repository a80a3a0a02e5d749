"""A hub on loopback: enough of the hub's protocol for huggingface_hub to download from it and to commit to it.

Small files are answered in place, as the hub does for files in git; `.safetensors` are answered by a redirect to a second
address with the size and checksum in `X-Linked-*` headers, as the hub does for large files. What is uploaded goes the same two
ways: large files by git LFS's batch protocol to the second address, small ones inside the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote


@dataclass
class Repository:
    """Commits (by their 40 digits) with their files, and the branches and tags that name commits."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str]
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """A running server.

    Attributes:
        repositories: by owner/name.
        requests: method and path of each request for a file so far, in order.
        asides: paths of all other requests.
        cut_off: send half of the next file and hang up.
        broken: answer everything with 503.
        broken_for: answer with 503 where the path ends in one of these.
        tokens: whose login each token is.
        storage: large files that were uploaded, by their sha256.
    """

    repositories: dict[str, Repository]
    requests: list[tuple[str, str]] = field(default_factory=list)
    asides: list[str] = field(default_factory=list)
    cut_off: bool = False
    broken: bool = False
    broken_for: tuple[str, ...] = ()
    tokens: dict[str, str] = field(default_factory=dict)
    storage: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be to lead here."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def taken(self) -> list[tuple[str, str]]:
        """Hand out the requests so far and begin a new count."""
        taken, self.requests = self.requests, []
        return taken


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_POST(self) -> None:
        path = unquote(self.path).partition("?")[0]
        body = self._body()
        self.hub.requests.append((self.command, path))
        user = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.hub.broken or path.endswith(self.hub.broken_for):
            self._refuse(503, None)
        elif path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            good = content.startswith("---\n") and "\n---\n" in content
            self._json({"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400)
        elif user is None:
            self._refuse(401, None)
        elif path == "/api/repos/create":
            self._create(json.loads(body), user)
        else:
            name = path.removeprefix("/api/models/").strip("/")
            name = "/".join(name.removesuffix(".git/info/lfs/objects/batch").removesuffix("/verify").split("/")[:2])
            if name not in self.hub.repositories or name.partition("/")[0] != user:
                self._refuse(403, None)
            elif "/preupload/" in path:
                self._preupload(json.loads(body))
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._batch(name, json.loads(body))
            elif path.endswith("/verify"):
                asked = json.loads(body)
                whole = len(self.hub.storage.get(asked["oid"], b"")) == asked["size"]
                self._json({}, 200 if whole else 422)
            elif "/commit/" in path:
                self._commit(name, body)
            else:
                self._refuse(404, None)

    def do_PUT(self) -> None:
        oid, content = self.path.removeprefix("/storage/"), self._body()
        self.hub.requests.append((self.command, self.path))
        if _checksum(content) != oid:
            self._refuse(400, None)
            return
        self.hub.storage[oid] = content
        self._json({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any], user: str) -> None:
        owner = asked["organization"] or user
        name = f"{owner}/{asked['name']}"
        if owner != user:
            self._refuse(403, None)
            return
        there = name in self.hub.repositories
        if not there:
            # Versions of huggingface_hub say it in two ways.
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository({}, {}, private=private)
        self._json({"url": f"{self.hub.endpoint}/{name}"}, 409 if there else 200)

    def _preupload(self, asked: dict[str, Any]) -> None:
        large = (".safetensors", ".png", ".gif", ".mp4")
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
            }
        )

    def _batch(self, name: str, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            one = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.storage:
                upload = {"href": f"{self.hub.endpoint}/storage/{each['oid']}"}
                verify = {"href": f"{self.hub.endpoint}/api/models/{name}/verify"}
                one["actions"] = {"upload": upload, "verify": verify}
            objects.append(one)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.commits.get(repository.names.get("main", ""), {}))
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.storage[value["oid"]]
        commit = f"{len(repository.commits) + 1:040x}"
        repository.commits[commit], repository.names["main"] = files, commit
        address = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._json({"success": True, "commitUrl": address, "commitOid": commit, "hookOutput": ""})

    def _json(self, values: Any, status: int = 200) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Stay silent: the requests are counted instead."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(self.path)
        if path.startswith("/api/"):
            # What versions of huggingface_hub ask beside the files differs, and none of it is needed for a download.
            self.hub.asides.append(path)
            self._describe(path.partition("?")[0].removeprefix("/api/models/"))
            return
        self.hub.requests.append((self.command, path))
        if self.hub.broken or path.endswith(self.hub.broken_for):
            self._refuse(503, None)
            return
        if path.startswith("/storage/"):
            content = next(
                content
                for repository in self.hub.repositories.values()
                for files in repository.commits.values()
                for content in files.values()
                if _checksum(content) == path.removeprefix("/storage/")
            )
            self._send(content, {"ETag": f'"{_checksum(content)}"'}, with_body=with_body)
            return
        self._resolve(path, with_body=with_body)

    def _describe(self, path: str) -> None:
        """What a revision holds, which whoever takes all of it asks first, in one of two ways."""
        owner, _, rest = path.partition("/")
        name, _, rest = rest.partition("/")
        way, _, revision = rest.partition("/")
        repository = self.hub.repositories.get(f"{owner}/{name}", Repository({}, {}))
        commit = repository.names.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None or way not in ("revision", "tree"):
            self._refuse(404, None)
        elif way == "revision":
            self._json({"id": f"{owner}/{name}", "sha": commit, "siblings": [{"rfilename": file} for file in files]})
        else:
            self._json([{"type": "file", "path": f, "size": len(c), "oid": _checksum(c)} for f, c in files.items()])

    def _resolve(self, path: str, *, with_body: bool) -> None:
        owner_and_name, separator, rest = path.strip("/").partition("/resolve/")
        repository = self.hub.repositories.get(owner_and_name)
        if repository is None or not separator:
            # The hub does not tell strangers whether a repository is private or does not exist.
            self._refuse(401, "RepoNotFound")
            return
        if repository.gated:
            self._refuse(401, "GatedRepo")
            return
        revision, _, name = rest.rpartition("/")
        commit = repository.names.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound")
            return
        known = {"X-Repo-Commit": commit}
        if name not in repository.commits[commit]:
            self._refuse(404, "EntryNotFound", known)
            return
        content = repository.commits[commit][name]
        if name.endswith(".safetensors"):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{_checksum(content)}"'}
            # Another name of this machine, for huggingface_hub follows a redirect to the same host on its own account.
            storage = self.hub.endpoint.replace("127.0.0.1", "localhost")
            self._redirect(f"{storage}/storage/{_checksum(content)}", known | linked)
        else:
            self._send(content, known | {"ETag": f'"{_checksum(content)[:40]}"'}, with_body=with_body)

    def _send(self, content: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        start = 0
        wanted = self.headers.get("Range")
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(200 if wanted is None else 206)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not with_body:
            return
        if self.hub.cut_off:
            self.hub.cut_off = False
            self.wfile.write(content[start : len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _redirect(self, location: str, headers: dict[str, str]) -> None:
        self.send_response(302)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if code is not None:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code}, says the server")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
