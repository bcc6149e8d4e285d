"""Where the tasks of a pass find the store, and how a worker of a cluster knows that it is the very same one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from analyze.statistics.scheduler import Scheduler
from analyze.statistics.selection import Chosen
from schemas.chunk_files import chunk_file
from schemas.errors import StoreError
from schemas.layout import layer_peak_name
from schemas.run import Run, is_url

__all__ = ["Place", "fingerprint"]

_MOST_PEAKS = 4096
"""Most peak files that tell one store from another: 48 layers, 2 sites and 42 sequences, a fraction of a second."""


@dataclass(frozen=True)
class Place:
    """A store's path or URL, for whoever does the tasks. ``fingerprint``: the store's own; None in this process."""

    path: str
    fingerprint: str | None = None

    @staticmethod
    def of(run: Run, chosen: Chosen, scheduler: Scheduler) -> Place:
        """That of ``run``: as it was given for threads, and for workers, whose folder is another, from the root."""
        if scheduler.in_this_process:
            return Place(run.path)
        return Place(run.path if is_url(run.path) else os.path.abspath(run.path), fingerprint(run, chosen))

    def opened(self, chosen: Chosen) -> Run:
        """The store, opened; raises StoreError where it is another one than was asked about."""
        run = Run(self.path)
        if self.fingerprint not in (None, fingerprint(run, chosen)):
            raise StoreError(
                f"the store at {self.path} is another one there than the one that was asked about: its provenance or "
                "its peaks differ"
            )
        return run

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors about the store with the worker that met them, and what to do: the same command works elsewhere."""
        try:
            yield
        except StoreError as error:
            if self.fingerprint is None:
                raise
            raise type(error)(
                f"on worker {socket.gethostname()} (process {os.getpid()}): {str(error).rstrip('.')}. Workers read the "
                f"store themselves: keep it where each of them finds it as {self.path}, on a file system that they "
                "share or in a bucket; or leave out --scheduler"
            ) from None


def fingerprint(run: Run, chosen: Chosen) -> str:
    """A digest of the store's provenance and of its peaks by cell, as they lie in files, of what is chosen.

    It is the same for a copy on another machine, and while other sequences are being written; it takes no pass over
    the slices. Peaks are a summary of all values: slices that differ have other ones. Of a bucket, which every worker
    reads by the same URL, the provenance alone.
    """
    digest = hashlib.sha256(run.info.model_dump_json().encode())
    if is_url(run.path):
        return digest.hexdigest()
    cells = [
        (array, layer, sequence)
        for array in map(layer_peak_name, chosen.arrays)
        if array in run
        for sequence in chosen.sequences
        for layer in chosen.layers
    ]
    for array, layer, sequence in cells[:: -(-len(cells) // _MOST_PEAKS) or 1]:
        file = chunk_file(os.path.join(run.path, array), run.array(array), (layer, sequence, 0))
        digest.update(f"\0{array} {layer} {sequence}\0".encode())
        with contextlib.suppress(OSError), open(file, "rb") as stream:
            digest.update(stream.read())
    return digest.hexdigest()
