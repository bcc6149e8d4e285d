"""Shards on their way through the disk: fetched from the Hub just ahead of the layer that reads them, then removed.

For a checkpoint larger than the disk (``--evict``). They lie in ``.shards`` inside the store; what is in the Hub's
cache already is read from there, and never removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from capture.hub import hub_error, mute_disk_warnings
from capture.model_facts import Skeleton
from capture.snapshot import Snapshot
from capture.weights.layer_weights import LayerWeights
from capture.weights.shards import Shards, StoredTensor, stored_tensors, tensors_in
from schemas.durable import is_full
from schemas.errors import CaptureError, InputError

__all__ = ["EvictingWeights", "passing_bytes", "remove_shards"]

FOLDER = ".shards"
AHEAD = 1
"""Shards that are fetched before the layer that is being read needs them."""

HEADERS_AT_ONCE = 8


def passing_bytes(shard_bytes: Collection[int], largest_layer_bytes: int) -> int:
    """The most that shards of these sizes take on disk at once, as expected before anything is known of their tensors.

    Those of one layer, which may begin and end amid a shard; one that is fetched ahead; and two that hold what belongs
    to no layer (embeddings, head), which are read first and wait for the layers in them.

    >>> passing_bytes([4] * 16, largest_layer_bytes=3)
    20
    """
    of_a_layer = 1 + -(-largest_layer_bytes // max(1, int(statistics.median(shard_bytes or [1]))))
    return sum(sorted(shard_bytes, reverse=True)[: of_a_layer + AHEAD + 2])


def remove_shards(store: Path) -> None:
    """Remove what passing shards left in a store, but for those of a process that is at work."""
    for folder in store.glob(f"{FOLDER}/*"):
        descriptor = _lock(folder)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
    with contextlib.suppress(OSError):
        (store / FOLDER).rmdir()


class EvictingWeights(LayerWeights):
    """A layer's weights at a time from shards that pass through the disk. Layers are loaded in order, from any on."""

    def __init__(self, snapshot: Snapshot, store: Path, skeleton: Skeleton, device: torch.device) -> None:
        """Only the headers of the shards are fetched, and nothing written; raises InputError where they are bad."""
        self._passing = PassingShards(snapshot, store)
        super().__init__(snapshot.folder, skeleton, device, self._passing)

    def load_outside(self) -> None:
        """As any LayerWeights; the shards in which layers are, too, stay."""
        self._passing.want([self.files(None)])
        super().load_outside()
        self._passing.keep(file for index in range(len(self.layers)) for file in self.files(index))

    def load_layer(self, index: int) -> None:
        """As any LayerWeights, while the next shard is fetched; then those that no later layer needs are removed."""
        self._passing.want([self.files(later) for later in range(index, len(self.layers))])
        super().load_layer(index)
        self._passing.keep(file for later in range(index + 1, len(self.layers)) for file in self.files(later))


class PassingShards(Shards):
    """The files of a checkpoint on the Hub, of which few are on this disk at any time.

    ``want`` says which are read now and which later, ``keep`` which are still to be read; a thread fetches.
    """

    def __init__(self, snapshot: Snapshot, store: Path) -> None:
        """Ask the Hub for the headers of the weights that its cache lacks; raises InputError for one that is none."""
        self._changed = threading.Condition()
        self._closed = False
        self._lock_descriptor: int | None = None
        super().__init__({}, self._wait_for)
        self.tensors = _tensors_of(snapshot)
        self._snapshot = snapshot
        self._parent = store / FOLDER
        self._folder: Path | None = None
        self._here = {name: path for name in snapshot.weights if (path := snapshot.folder / name).is_file()}
        self._cached = frozenset(self._here)
        self._now: list[str] = []
        self._later: list[str] = []
        self._failure: BaseException | None = None
        # No pool: a process that is interrupted amid a large file ends without waiting for the rest of it.
        threading.Thread(target=self._fetch_all, name="shards", daemon=True).start()

    def want(self, steps: Sequence[Iterable[str]]) -> None:
        """Fetch the files of the first step, which are read now, and then, one ahead, those of the others in order."""
        files = list(dict.fromkeys(file for step in steps for file in step))
        with self._changed:
            self._now = list(steps[0])
            self._later = [file for file in files if file not in self._now]
            self._changed.notify_all()

    def keep(self, files: Iterable[str]) -> None:
        """Remove all shards but ``files``, and but those of the Hub's cache."""
        over = set(self._snapshot.weights) - set(files) - self._cached
        super().close(over)
        with self._changed:
            self._now = [name for name in self._now if name not in over]
            for name in over:
                self._here.pop(name, None)
                if self._folder is not None:
                    (self._folder / name).unlink(missing_ok=True)
            self._changed.notify_all()

    def close(self, files: Iterable[str] | None = None) -> None:
        """As of any Shards; after all are closed nothing more is fetched, or waited for, and what is there stays."""
        super().close(files)
        if files is not None:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)
                self._lock_descriptor = None

    def _wait_for(self, file: str) -> Path:
        """The path of ``file`` as soon as it is here; raises what stood in the way."""
        with self._changed:
            if file not in self._here and file not in self._now:
                self._now.append(file)
                self._changed.notify_all()
            self._changed.wait_for(lambda: file in self._here or self._failure is not None or self._closed)
            if file in self._here:
                return self._here[file]
            raise self._failure or CaptureError(f"{file} is not fetched any more")

    def _next(self) -> str | None:
        wanted = itertools.chain(self._now, self._later[:AHEAD])
        return next((file for file in wanted if file not in self._here), None)

    def _fetch_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                file = self._next()
                if self._closed or file is None:
                    return
            try:
                path = self._fetch(file)
            except BaseException as error:
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._here[file] = path
                self._changed.notify_all()

    def _fetch(self, file: str) -> Path:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        snapshot = self._snapshot
        try:
            if self._folder is None:
                self._folder, self._lock_descriptor = _claim(self._parent)
            disable_progress_bars()  # the capture has one of its own
            mute_disk_warnings()
            path = Path(
                huggingface_hub.hf_hub_download(
                    snapshot.source.id, file, revision=snapshot.revision, local_dir=self._folder
                )
            )
        except Exception as error:  # the Hub's own, those of the HTTP library, a full disk
            again = "What is committed is safe; the same command goes on"
            if is_full(error):
                raise CaptureError(f"the disk is full: {self._parent}. {again} once there is room") from error
            cause = hub_error(error, snapshot.source.id, "model", snapshot.revision)
            raise CaptureError(f"{file}: {cause}. {again}") from error
        listed = {name: tensor for name, tensor in self.tensors.items() if tensor.file == file}
        if path.stat().st_size != snapshot.weights[file].size_bytes or tensors_in(path) != listed:
            raise CaptureError(f"{path} is not the file that the Hub lists; remove {self._folder} and try again")
        return path


def _tensors_of(snapshot: Snapshot) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint, by the headers of its files: in the cache, else asked of the Hub by range."""
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        found = list(pool.map(lambda file: _header(snapshot, file), snapshot.weights))
    return {name: tensor for tensors in found for name, tensor in tensors.items()}


def _header(snapshot: Snapshot, file: str) -> Mapping[str, StoredTensor]:
    import huggingface_hub
    from huggingface_hub.errors import SafetensorsParsingError

    if (snapshot.folder / file).is_file():
        return tensors_in(snapshot.folder / file)
    try:
        about = huggingface_hub.HfApi().parse_safetensors_file_metadata(
            snapshot.source.id, file, revision=snapshot.revision
        )
        header = {
            name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
            for name, info in about.tensors.items()
        }
        # The header's own length is not told; the data follow it and end where the file does.
        data_bytes = max((info.data_offsets[1] for info in about.tensors.values()), default=0)
        return stored_tensors(file, header, snapshot.weights[file].size_bytes - data_bytes)
    except (SafetensorsParsingError, ValueError, TypeError) as error:
        raise InputError(f"--model {snapshot.source.name}: {file} is no readable safetensors file: {error}") from None
    except Exception as error:  # the Hub's own, and those of the HTTP library underneath
        cause = hub_error(error, snapshot.source.id, "model", snapshot.revision)
        raise InputError(f"--model {snapshot.source.name}: {cause}") from None


def _claim(parent: Path) -> tuple[Path, int]:
    """A folder in ``parent`` that is this process's alone, and its lock: what a killed process left, else a new one."""
    for number in itertools.count():
        folder = parent / str(number)
        with contextlib.suppress(FileNotFoundError):  # a process that ends here removed it meanwhile
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _lock(folder)
            if descriptor is None:
                continue
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                for unfinished in folder.glob(".cache/huggingface/download/*.incomplete"):
                    unfinished.unlink(missing_ok=True)
                return folder, descriptor
            os.close(descriptor)
    raise AssertionError("unreachable")


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the exclusive lock of ``folder``; None where another process does."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        pass
    return descriptor
