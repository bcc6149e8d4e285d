"""Running hidden states kept beside a store, so that a capture that goes layer by layer loses one layer to a crash.

One safetensors file a batch, in ``.resume`` inside the store, written whole under another name, flushed, then renamed.
It is named after the data of its layers is on the disk, and before their cells are committed. Several workers may
keep files there: each deletes its own, and who completes the store the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c
import torch

from capture.host_buffers import HostBuffers, HostCopy
from schemas.durable import flush
from schemas.run import Run

__all__ = ["DRAFTS_AT_ONCE", "Draft", "LayerCheckpoints", "kept_bytes", "publish", "remove_left_checkpoints"]

HIDDEN = "hidden"

DRAFTS_AT_ONCE = 8
"""So many batches have one commit: until then the disk holds, for each, its draft and what that will replace."""


class Draft:
    """Copies of what a batch needs to go on, in memory until they are on the disk; ``publish`` makes them ``file``."""

    def __init__(
        self, file: Path, about: Mapping[str, str], copies: Mapping[str, HostCopy], buffers: HostBuffers
    ) -> None:
        """``about`` tells which batch and how far; ``copies`` are given back to ``buffers`` when they are written."""
        self.file = file
        self.size_bytes = sum(copy.tensor.nbytes for copy in copies.values())
        self._about, self._copies, self._buffers = about, copies, buffers
        self._partial = file.with_suffix(f".{uuid.uuid4().hex}.partial")  # another process may keep the same batch

    def write(self) -> None:
        """Bring it to the disk itself under another name."""
        for copy in self._copies.values():
            copy.arrived()
        kept = {name: copy.tensor for name, copy in self._copies.items()}
        with _folder_may_go():
            self._save(kept)
        for tensor in kept.values():
            self._buffers.give_back(tensor)

    def _save(self, kept: Mapping[str, torch.Tensor]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(dict(kept), self._partial, {**self._about, "crc32c": _checksum(self._about["done"], kept)})
            flush(self._partial)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._partial.unlink()
            if not isinstance(error, SafetensorError):
                raise
            cause = re.search(r"os error (\d+)", str(error))  # which an OSError becomes there
            raise OSError(int(cause[1]) if cause else errno.EIO, f"{self._partial}: {error}") from error

    def rename(self) -> None:
        """Give what was written its name."""
        self._partial.rename(self.file)

    def discard(self) -> None:
        """Delete what was written and has no name of its own yet, if anything."""
        with contextlib.suppress(OSError):
            self._partial.unlink()


def publish(drafts: Sequence[Draft]) -> None:
    """Name ``drafts``, which lie in one folder and were written: a crash from now on goes on from them."""
    with _folder_may_go():
        for draft in drafts:
            draft.rename()
        flush(drafts[0].file.parent)


def _folder_may_go() -> contextlib.AbstractContextManager[None]:
    """Gone while a file is kept there: another process has completed the store, and nothing needs to be kept."""
    return contextlib.suppress(FileNotFoundError)


class LayerCheckpoints:
    """What batches were given to the next layer, by batch and the sequences of it that are written."""

    def __init__(self, run: Run) -> None:
        """The checkpoints of a local store; nothing is written until a layer is saved."""
        self._run = run
        self._folder = _folder(run)
        self._files: set[Path] = set()
        self._buffers = HostBuffers()

    def draft(
        self, batch: range, wanted: Sequence[int], done: int, hidden: torch.Tensor, peaks: Mapping[str, torch.Tensor]
    ) -> Draft:
        """That ``batch`` has been through ``done`` layers, to be made durable."""
        if not self._folder.is_dir():
            self._folder.mkdir(exist_ok=True)
            flush(self._folder.parent)
        # Copies: the engine goes on with the peaks, and a layer may change its input in place.
        copies = {name: self._buffers.copy(tensor) for name, tensor in {HIDDEN: hidden, **peaks}.items()}
        about = {"done": str(done), "sequences": _described(batch, wanted)}
        return Draft(self._file(batch, wanted), about, copies, self._buffers)

    def load(
        self, batch: range, wanted: Sequence[int], hidden: torch.Tensor, sites: Sequence[str]
    ) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
        """(layers done, hidden states, position peaks) of ``batch``; (0, ``hidden``, {}) where none are kept.

        A file that cannot be read or is damaged, of another shape, or made while other sequences of the batch were
        written, counts as none: the batch starts again from its first layer.
        """
        from safetensors import SafetensorError, safe_open

        with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(self._file(batch, wanted), framework="pt") as stream:
                about = stream.metadata()
                kept = {name: stream.get_tensor(name) for name in [HIDDEN, *sites]}
                if about["crc32c"] != _checksum(about["done"], kept):
                    return 0, hidden, {}
                kept = {name: tensor.to(hidden.device) for name, tensor in kept.items()}
            fits = kept[HIDDEN].shape == hidden.shape and kept[HIDDEN].dtype == hidden.dtype
            if fits and about["sequences"] == _described(batch, wanted):
                return int(about["done"]), kept.pop(HIDDEN), kept
        return 0, hidden, {}

    def remove(self) -> None:
        """Delete the files of the batches that were saved or looked for here; all, where the store is complete."""
        for file in self._files:
            file.unlink(missing_ok=True)
        remove_left_checkpoints(self._run)

    def _file(self, batch: range, wanted: Sequence[int]) -> Path:
        """Its name tells the batch's sequences that are written: workers share a batch, but no sequence."""
        file = self._folder / f"{batch.start}-{batch.stop}.{wanted[0]}-{wanted[-1]}.safetensors"
        self._files.add(file)
        return file


def kept_bytes(run: Run, sequences: range) -> int:
    """Bytes of what is kept, under whatever name, of batches of which ``sequences`` are written."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for file in _folder(run).iterdir():
            named = re.match(r"\d+-\d+\.(\d+)-\d+\.", file.name)  # as ``LayerCheckpoints`` names them
            if named and int(named[1]) in sequences:
                with contextlib.suppress(FileNotFoundError):  # another worker's, or replaced meanwhile
                    total += file.stat().st_size
    return total


def remove_left_checkpoints(run: Run) -> None:
    """Delete all, whoever kept them, where the store is complete: nobody goes on from them."""
    if run.committed().all():
        shutil.rmtree(_folder(run), ignore_errors=True)


def _folder(run: Run) -> Path:
    return Path(run.path, ".resume")


def _described(batch: range, wanted: Sequence[int]) -> str:
    return json.dumps([batch.start, batch.stop, list(wanted)])


def _checksum(done: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of ``done`` and the bytes of ``tensors``: safetensors has none, and what is kept decides all later layers."""
    found = google_crc32c.value(done.encode())
    for name in sorted(tensors):
        found = google_crc32c.extend(found, tensors[name].reshape(-1).view(torch.uint8).numpy())
    return f"{found:08x}"
