"""Running hidden states kept beside a store, so that a capture that goes layer by layer loses one layer to a crash.

One safetensors file a batch, in ``.resume`` inside the store, written whole under another name, flushed, then renamed.
It is written after the data of its layers is on the disk, and before their cells are committed. Several workers may
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
from schemas.durable import flush, sync
from schemas.run import Run

__all__ = ["DRAFTS_AT_ONCE", "Draft", "LayerCheckpoints", "make_durable", "remove_left_checkpoints"]

HIDDEN = "hidden"

DRAFTS_AT_ONCE = 8
"""As many as the disk is asked to flush together (``schemas.durable``)."""


class Draft:
    """Copies of what a batch needs to go on, in memory until they are in ``file``."""

    def __init__(
        self, file: Path, about: Mapping[str, str], copies: Mapping[str, HostCopy], buffers: HostBuffers
    ) -> None:
        """``about`` tells which batch and how far; ``copies`` are given back to ``buffers`` when they are written."""
        self.file = file
        self.size_bytes = sum(copy.tensor.nbytes for copy in copies.values())
        self._about, self._copies, self._buffers = about, copies, buffers
        self._partial = file.with_suffix(f".{uuid.uuid4().hex}.partial")  # another process may keep the same batch

    def write(self) -> Path:
        """Write it under another name, which is returned; FileNotFoundError where the folder is gone."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        for copy in self._copies.values():
            copy.arrived()
        kept = {name: copy.tensor for name, copy in self._copies.items()}
        try:
            save_file(kept, self._partial, {**self._about, "crc32c": _checksum(self._about["done"], kept)})
        except SafetensorError as error:  # which an OSError becomes there
            cause = re.search(r"os error (\d+)", str(error))
            raise OSError(int(cause[1]) if cause else errno.EIO, f"{self._partial}: {error}") from error
        for tensor in kept.values():
            self._buffers.give_back(tensor)
        return self._partial

    def publish(self) -> None:
        """Give what was written its name."""
        self._partial.rename(self.file)


def make_durable(drafts: Sequence[Draft]) -> None:
    """Bring ``drafts``, which lie in one folder, to the disk itself, then name them: some at once, as it waits.

    Not all, as those that they replace are on the disk until then.
    """
    folder = drafts[0].file.parent
    # Gone while this is written: another process has completed the store, and nothing needs to be kept.
    with contextlib.suppress(FileNotFoundError):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            flush(folder.parent)
        for start in range(0, len(drafts), DRAFTS_AT_ONCE):
            some = drafts[start : start + DRAFTS_AT_ONCE]
            sync([draft.write() for draft in some])
            for draft in some:
                draft.publish()
        flush(folder)


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
