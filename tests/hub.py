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
from collections.abc import Callable, Mapping
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
    """A folder as a repository, weights kept by Git LFS; ``other`` branches are folders too.

    A ``gated`` one is listed for anyone and read by nobody without the right token; a ``private`` one is not even
    there for others. ``earlier`` folders are what its main branch was before.
    """

    folder: Path
    gated: bool = False
    private: bool = False
    earlier: tuple[Path, ...] = ()
    other: Mapping[str, Path] = field(default_factory=dict)

    def at(self, revision: str) -> Path | None:
        """The folder of a branch or commit."""
        branches = {"main": self.folder, **self.other}
        commits = {commit(folder): folder for folder in (*self.earlier, *branches.values())}
        return branches.get(revision) or commits.get(revision)

    @property
    def sha(self) -> str:
        """The commit of the main branch."""
        return commit(self.folder)


def files_of(folder: Path) -> dict[str, Path]:
    """Path in the repository -> file."""
    return {str(f.relative_to(folder)): f for f in sorted(folder.rglob("*")) if f.is_file()}


def commit(folder: Path) -> str:
    """40 hexadecimal digits that change with any file."""
    digest = hashlib.sha1()
    for path, file in files_of(folder).items():
        digest.update(f"{path} {blob(file)}\n".encode())
    return digest.hexdigest()


def large(file: Path) -> bool:
    """Whether Git LFS keeps a file."""
    return file.suffix == ".safetensors"


def sha256(file: Path) -> str:
    """What Git LFS calls a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def blob(file: Path) -> str:
    """A git object's name for what git holds of a file: its bytes, or the pointer to those that LFS keeps."""
    data = file.read_bytes()
    if large(file):
        data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(file)}\nsize {len(data)}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """The server, running while the context is entered. ``requests`` holds ``METHOD /path`` of all that came, and
    ``ranges`` the (path, first byte) of those that asked for a part of a file.

    While ``broken`` is a status, every request is answered with it; 0 hangs up, and ``mute`` says nothing for as long
    as it is set. Files named in ``shut`` are refused with 403. ``cuts`` maps a file's name to the numbers of bytes
    after which its next answers break off. ``watch`` is called with the path of each file about to be sent whole.
    Requests for another host arrive here too (``environment`` names the server as the proxy), are refused, and are kept
    in ``strays``.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    shut: set[str] = field(default_factory=set)
    watch: Callable[[str], None] = lambda path: None
    strays: list[str] = field(default_factory=list)
    broken: int | None = None
    mute: threading.Event | None = None

    TOKEN = "hf_sesame"
    """The token that opens gated and private repositories."""
    STRANGER = "hf_stranger"
    """The token of an account that may see neither. Any other token is refused with whatever it asks for."""

    def add(self, kind: str, identity: str, folder: Path, **more: Any) -> Repository:
        """Serve ``folder`` as the ``model`` or ``dataset`` called ``identity``; ``more`` as of a Repository."""
        self.repositories[kind, identity] = repository = Repository(folder, **more)
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

    def handle(self) -> None:
        """Answer until the client hangs up, as it does when it is killed."""
        with contextlib.suppress(ConnectionError):
            super().handle()

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
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", Hub.TOKEN, Hub.STRANGER):
            return self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        kind = found["kind"] if api else "dataset" if found["kind"] else "model"
        repository = self.served.repositories.get((kind, found["id"]))
        if repository is None or (
            repository.private and token != Hub.TOKEN
        ):  # the real one answers 401 to anonymous callers, so as not to tell
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
        folder = repository.at(revision or "main")
        if folder is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        files = {path: self.entry(path, file) for path, file in files_of(folder).items()}
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
        if "blobs" in query:
            for sibling, entry in zip(siblings, files.values(), strict=True):
                held = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
                sibling |= {"size": entry["size"], "blobId": entry["oid"], **held}
        about = {"id": identity, "sha": commit(folder), "private": False, "tags": [], "downloads": 0}
        about["siblings"] = siblings
        return self.answer(200, content=json.dumps(about).encode())

    def entry(self, path: str, file: Path) -> dict[str, Any]:
        """One file as the tree lists it."""
        size = file.stat().st_size
        lfs = {"lfs": {"oid": sha256(file), "size": size, "pointerSize": 134}} if large(file) else {}
        return {"type": "file", "path": path, "size": size, "oid": blob(file), **lfs}

    def resolve(self, repository: Repository, revision: str, path: str) -> None:
        """One file's bytes, all or a range of them, with the headers that clients cache by."""
        if repository.gated and self.headers.get("Authorization") != f"Bearer {Hub.TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            return self.answer(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        folder = repository.at(revision)
        if folder is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        sha, file = commit(folder), files_of(folder).get(path)
        if file is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        if file.name in self.served.shut:
            return self.answer(403)
        data = file.read_bytes()
        headers = {"ETag": f'"{blob(file)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if large(file):
            headers |= {"X-Linked-Etag": f'"{sha256(file)}"', "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            if self.command == "GET":
                self.served.watch(path)
            return self.answer(200, headers, data)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        self.served.ranges.append((path, first))
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
            if self.command == "HEAD":
                return
            cuts = self.served.cuts.get(self.path.rsplit("/", 1)[-1])
            if cuts:
                content, self.close_connection = content[: cuts.pop(0)], True
            self.wfile.write(content)
