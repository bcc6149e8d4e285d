"""Object stores on this machine's loopback: moto's S3 server in a process of its own, and folders over plain HTTP."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

__all__ = ["KEY", "SECRET", "Served", "bucket_objects", "put_folder", "served_bucket", "served_folder"]

KEY = "AKIATESTTESTTEST0001"
SECRET = "a-secret-of-the-tests-0001"

_SERVER = """
import logging, os, sys, time
os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def served_bucket(bucket: str = "bucket") -> Iterator[str]:
    """The endpoint of an S3 server that has one empty bucket, while entered."""
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            endpoint = "http://" + server.stdout.readline().strip()
            request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
            for _ in range(50):
                with contextlib.suppress(OSError):
                    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()
                    break
                time.sleep(0.1)
            yield endpoint
        finally:
            server.stdin.close()
            server.wait(timeout=20)


def bucket_objects(endpoint: str, prefix: str | None = None, bucket: str = "bucket") -> Any:
    """obstore's own view of the bucket."""
    return S3Store(
        bucket,
        prefix=prefix,
        endpoint=endpoint,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
    )


def put_folder(folder: Path, endpoint: str, prefix: str) -> None:
    """Copy all files of ``folder`` into the bucket."""
    objects = bucket_objects(endpoint, prefix)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            obstore.put(objects, file.relative_to(folder).as_posix(), file.read_bytes())


class Served:
    """A folder that is read over HTTP. ``asked``: the paths that were asked for; ``status``: what all get instead."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.status: tuple[int, str] | None = None


@contextlib.contextmanager
def served_folder(folder: Path) -> Iterator[Served]:
    """``folder`` served on a free port of the loopback while entered."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.asked.append(self.path)
            if served.status is None:
                super().do_GET()
                return
            body = served.status[1].encode()
            self.send_response(served.status[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            served.asked.append(f"HEAD {self.path}")
            super().do_HEAD()

        def end_headers(self) -> None:
            self.send_header("ETag", f'"{len(self.path)}"')  # Google's answers have one, and are not taken without
            super().end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    served = Served(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
