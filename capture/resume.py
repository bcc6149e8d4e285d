"""Running hidden states kept beside a store, so that a capture that goes layer by layer loses one layer to a crash.

One safetensors file a batch, in ``.resume`` inside the store, written whole under another name, flushed, then renamed.
The folder is removed when the store is complete.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from schemas.durable import flush
from schemas.run import Run

__all__ = ["LayerCheckpoints"]

HIDDEN = "hidden"


class LayerCheckpoints:
    """What batches were given to the next layer, by batch; ``folder`` None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Nothing is written until a layer is saved."""
        self._folder = folder

    @classmethod
    def beside(cls, run: Run) -> LayerCheckpoints:
        """The checkpoints of a local store."""
        return cls(Path(run.path, ".resume"))

    def saver(
        self, batch: range, done: int, hidden: torch.Tensor, peaks: Mapping[str, torch.Tensor]
    ) -> tuple[Callable[[], None], int]:
        """A call that makes durable that ``batch`` has been through ``done`` layers, and the bytes that it holds."""
        folder = self._folder
        if folder is None:
            return (lambda: None), 0
        # Copies: the engine goes on with the peaks, and a layer may change its input in place.
        tensors = {HIDDEN: hidden, **peaks}
        kept = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}

        def save() -> None:
            from safetensors.torch import save_file

            folder.mkdir(exist_ok=True)
            file = self._file(folder, batch)
            draft = file.with_suffix(".partial")
            save_file(kept, draft, {"done": str(done), "sequences": f"{batch.start}:{batch.stop}"})
            flush(draft)
            draft.rename(file)
            flush(folder)

        return save, sum(tensor.nbytes for tensor in kept.values())

    def load(
        self, batch: range, hidden: torch.Tensor, sites: Sequence[str]
    ) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
        """(layers done, hidden states, position peaks) of ``batch``; (0, ``hidden``, {}) where none are kept.

        A file that cannot be read, or of another shape, counts as none: the batch starts again from its first layer.
        """
        nothing: tuple[int, torch.Tensor, dict[str, torch.Tensor]] = (0, hidden, {})
        if self._folder is None:
            return nothing
        from safetensors import SafetensorError, safe_open

        with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(self._file(self._folder, batch), framework="pt") as stream:
                about = stream.metadata()
                kept = {name: stream.get_tensor(name).to(hidden.device) for name in [HIDDEN, *sites]}
            fits = kept[HIDDEN].shape == hidden.shape and kept[HIDDEN].dtype == hidden.dtype
            if fits and about["sequences"] == f"{batch.start}:{batch.stop}":
                return int(about["done"]), kept.pop(HIDDEN), kept
        return nothing

    def remove(self) -> None:
        """Delete what is kept."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _file(folder: Path, batch: range) -> Path:
        return folder / f"{batch.start}-{batch.stop}.safetensors"
