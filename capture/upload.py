"""A capture whose store is to be in a bucket: made in a local folder, then copied there, what vouches for data last.

An object is whole or absent, and the log of a sequence is written after all else of it, so what is read there is as
complete as it says at every moment. The same command continues: what the bucket has already, by size and digest, is
not sent again. docs/decisions/057-remote-stores.md
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SignatureError, StoreError
from schemas.provenance import differences
from schemas.remote import Remote, open_remote
from schemas.run import Run

__all__ = ["Upload", "Uploaded"]

_AT_ONCE = 4
"""Files in flight, each held in memory: at most 32 MiB, so 128 MiB."""
_ROOT = "zarr.json"
_LOG = "committed"
_WHOLE = ("token_id", "token_mask")
"""Arrays by sequence that are stored of all sequences when the store is made."""
_TRIAL = ".outlier-features-may-write"


@dataclass(frozen=True)
class Uploaded:
    """``sent`` and ``kept``: objects that were written now, and that were there already; ``bytes`` of the former."""

    sent: int
    kept: int
    bytes: int


class Upload:
    """The place in a bucket that ``--store`` names, and the folder that the store is made in first."""

    def __init__(self, url: str, *, overwrite: bool, try_writing: bool = True) -> None:
        """Look, and write and remove a small object; raises StoreError where one of these cannot be done."""
        remote = open_remote(url)
        if not remote.url.startswith(("s3://", "gs://")):
            raise StoreError(f"--store {remote.url}: stores are read from https://, not written; give s3:// or gs://")
        self.remote: Remote = remote
        self._overwrite = overwrite
        name = remote.url.rsplit("/", 1)[-1]
        if remote.url.count("/") < 3 or not name:
            raise StoreError(f"--store {remote.url} names a bucket alone: give a path in it: {remote.url}/NAME.zarr")
        self.folder = Path("runs") / name
        held = self._held()
        if held is not None and not overwrite and not self.folder.exists() and held.committed().all():
            raise StoreError(
                f"--store {remote.url} holds a complete run already: analyze --store {remote.url}; or give another "
                "--store, or --overwrite to replace it"
            )
        if try_writing:
            self._put(_TRIAL, b"")
            self._delete([_TRIAL])

    def send(self, told: Callable[[str], None]) -> Uploaded:
        """Copy all complete sequences of the folder's store; what is done is said to ``told`` now and then.

        Raises SignatureError where another run is there, StoreError where something cannot be written: the same
        command goes on from there.
        """
        run = Run(self.folder)
        held = self._held()
        if held is not None and self._overwrite and held.info.created != run.info.created:
            self._clear()
            held = None
        if held is not None and (changed := differences(held.info.signature, run.info.signature)):
            listed = "\n".join(f"  {key}: {was!r} there, {now!r} here" for key, was, now in changed)
            raise SignatureError(
                f"{self.remote.url} was made with other settings than {self.folder}:\n{listed}\n"
                "Give another --store, or --overwrite to replace it"
            )
        there = self.remote.listed()
        sent = kept = size = 0
        for group in self._in_order(run, with_root=held is None):
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                for done in threads.map(lambda key: self._send(key, there.get(key)), group):
                    sent, kept, size = sent + (done > 0), kept + (done == 0), size + done
                    if sent and sent % 1000 == 0 and done:
                        told(f"{sent:,} objects are in {self.remote.url}")
        return Uploaded(sent, kept, size)

    def _in_order(self, run: Run, *, with_root: bool) -> Iterable[list[str]]:
        """Keys as they are written one after another: data, what says that it is a store, what vouches for the data."""
        complete = set(run.complete_sequences())
        data: list[str] = []
        log: list[str] = []
        for file in sorted(self.folder.rglob("*")):
            key = file.relative_to(self.folder).as_posix()
            if not file.is_file() or key == _ROOT or file.name.endswith(".partial"):
                continue
            name, _, chunk = key.partition("/")
            if name not in run:
                continue
            sequence = _sequence_of(run, name, chunk)
            if sequence is None or sequence in complete or name in _WHOLE:
                (log if name == _LOG and sequence is not None else data).append(key)
        yield data
        yield [_ROOT] if with_root else []
        yield log

    def _send(self, key: str, held: tuple[int, str | None] | None) -> int:
        """Bytes that were sent; 0 where the bucket has that very file already."""
        body = (self.folder / key).read_bytes()
        if held is not None and held[0] == len(body):
            tag = held[1] or ""
            if re.fullmatch(r"[0-9a-f]{32}", tag) and hashlib.md5(body, usedforsecurity=False).hexdigest() == tag:
                return 0
        self._put(key, body)
        return len(body)

    def _held(self) -> Run | None:
        """The run that is there; None where there is nothing. Raises StoreError for anything else."""
        if self.remote.get(_ROOT) is None:
            return None
        return Run(self.remote.url)

    def _clear(self) -> None:
        """Remove the store that ``--overwrite`` replaces; first what says that it is one."""
        self._delete([_ROOT])
        self._delete([key for key in self.remote.listed() if key != _ROOT])

    def _put(self, key: str, body: bytes) -> None:
        import obstore

        try:
            obstore.put(self.remote.objects, key, body, use_multipart=False)
        except Exception as error:
            raise self.remote.explained(error, key, "write") from None

    def _delete(self, keys: list[str]) -> None:
        import obstore

        try:
            if keys:
                obstore.delete(self.remote.objects, keys)
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self.remote.explained(error, keys[0], "write") from None


def _sequence_of(run: Run, name: str, chunk: str) -> int | None:
    """The sequence that a chunk's file is of: ``c.3.0.0.0`` of (layer, sequence, ...) is of 0; None for other files."""
    dims = run.array(name).metadata.dimension_names or ()  # type: ignore[union-attr]
    if "sequence" not in dims or not chunk.startswith("c."):
        return None
    return int(chunk.split(".")[1 + dims.index("sequence")])
