"""A Hub on this machine: enough of its HTTP protocol for huggingface_hub and datasets, served from folders.

A real server for real clients, in a thread. Every request is recorded. Clients are pointed at it by environment
variables, which they read when imported: run them in a process of their own, with ``Hub.environment``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Hub", "Repository"]

API = re.compile(
    r"/api/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+?)(?:/(?P<action>revision|tree|paths-info)/(?P<rest>.+))?"
)
RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True)
class Repository:
    """A folder as a repository. A ``gated`` one is listed for anyone and read by nobody without the right token."""

    folder: Path
    gated: bool = False

    def files(self) -> dict[str, Path]:
        """Path in the repository -> file."""
        return {str(f.relative_to(self.folder)): f for f in sorted(self.folder.rglob("*")) if f.is_file()}

    @property
    def sha(self) -> str:
        """The commit: 40 hexadecimal digits that change with any file."""
        digest = hashlib.sha1()
        for path, file in self.files().items():
            digest.update(f"{path} {blob(file)}\n".encode())
        return digest.hexdigest()


def blob(file: Path) -> str:
    """A git object's name for a file's bytes."""
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """The server, running while the context is entered. ``requests`` holds ``METHOD /path`` of all that came.

    While ``broken`` is a status, every request is answered with it; 0 hangs up, and ``mute`` says nothing for as long
    as it is set. Requests for another host arrive here too (``environment`` names the server as the proxy), are
    refused, and are kept in ``strays``.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    broken: int | None = None
    mute: threading.Event | None = None

    TOKEN = "hf_sesame"
    """The token that opens gated repositories."""

    def add(self, kind: str, identity: str, folder: Path, *, gated: bool = False) -> Repository:
        """Serve ``folder`` as the ``model`` or ``dataset`` called ``identity``."""
        self.repositories[kind, identity] = repository = Repository(folder, gated)
        return repository

    def __enter__(self) -> Hub:
        """The hub, listening on a free port of 127.0.0.1."""
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening: connections are refused from here on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a process that uses this hub, with its caches in ``home`` and no way to any other host."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
        }
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.url)
        local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return {**kept, **proxies, **local, "HF_ENDPOINT": self.url, "HF_HOME": str(home), **more}


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_CONNECT(self) -> None:
        """Refuse to be a tunnel."""
        self.served.strays.append(self.path)
        self.answer(403)

    def do_GET(self) -> None:
        """Answer from the folders."""
        address = urlsplit(self.path)
        if address.netloc:
            self.served.strays.append(self.path)
            return self.answer(403)
        path = unquote(address.path)
        self.served.requests.append(f"{self.command} {path}")
        if self.served.mute is not None:
            self.served.mute.wait(60)
        if self.served.broken == 0 or self.served.mute is not None:
            self.close_connection = True
            return None
        if self.served.broken is not None:
            return self.answer(self.served.broken)
        api, resolve = API.fullmatch(path), RESOLVE.fullmatch(path)
        found = api or resolve
        if found is None:
            return self.answer(404)
        kind = found["kind"] if api else "dataset" if found["kind"] else "model"
        repository = self.served.repositories.get((kind, found["id"]))
        if repository is None:  # the real one answers 401 to anonymous callers, so as not to tell
            return self.answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if resolve:
            return self.resolve(repository, resolve["revision"], resolve["path"])
        return self.api(repository, found["id"], found["action"], found["rest"] or "", parse_qs(address.query))

    do_HEAD = do_GET  # noqa: N815 (names that http.server looks for)
    do_POST = do_GET  # noqa: N815

    def api(
        self, repository: Repository, identity: str, action: str | None, rest: str, query: Mapping[str, Any]
    ) -> None:
        """The three calls under /api: a repository's facts, its tree, and some of its paths."""
        revision, _, below = rest.partition("/")
        sha = repository.sha
        if revision not in ("", "main", sha):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        files = {path: self.entry(path, file) for path, file in repository.files().items()}
        folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
        entries = {
            **files,
            **{path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders},
        }
        if action == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            if below and below not in folders:
                return self.answer(404, {"X-Error-Code": "EntryNotFound"})
            inside = [
                entry
                for path, entry in sorted(entries.items())
                if (Path(below) in Path(path).parents if recursive else Path(path).parent == Path(below))
            ]
            return self.answer(200, content=json.dumps(inside).encode())
        if action == "paths-info":
            asked = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())["paths"]
            return self.answer(200, content=json.dumps([entries[p] for p in asked if p in entries]).encode())
        siblings = [{"rfilename": path} for path in files]
        about = {"id": identity, "sha": sha, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
        return self.answer(200, content=json.dumps(about).encode())

    def entry(self, path: str, file: Path) -> dict[str, Any]:
        """One file as the tree lists it."""
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": blob(file)}

    def resolve(self, repository: Repository, revision: str, path: str) -> None:
        """One file's bytes, all or a range of them, with the headers that clients cache by."""
        sha = repository.sha
        if repository.gated and self.headers.get("Authorization") != f"Bearer {self.served.TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            return self.answer(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if revision not in ("main", sha):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        file = repository.files().get(path)
        if file is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        headers = {"ETag": f'"{blob(file)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        data = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, headers, data)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        if first > last:
            return self.answer(416, headers | {"Content-Range": f"bytes */{len(data)}"})
        return self.answer(
            206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]
        )

    def answer(self, status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> None:
        """Send a response; a HEAD request gets its length without its bytes."""
        with contextlib.suppress(ConnectionError):  # a client that has seen enough hangs up
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
