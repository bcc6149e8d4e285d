"""The Hub: which commit a repository is at, what its files are, and why it cannot be had. Asked before any download.

The libraries that download wait without a limit where nothing answers, or try for half a minute where nothing
listens; this one question has a time limit, so that a machine without a network is told at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.errors import InputError

__all__ = ["HubFile", "HubRepository", "HubUnreachableError", "ask_hub", "hub_error", "mute_disk_warnings"]

ANSWER_SECONDS = 10.0
UNAUTHORISED = 401

Kind = Literal["model", "dataset"]


class HubUnreachableError(InputError):
    """The Hub does not answer, or not as a Hub does; what is in its cache may still be used."""


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file: its size, and the digest that names it in the Hub's cache.

    ``digest`` is SHA-256 of the bytes for a file kept by Git LFS, as weights are, and git's blob id for others.
    """

    size_bytes: int
    digest: str


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit: its hash, the paths of its files, and for a model what is known of each."""

    revision: str
    files: tuple[str, ...]
    about: Mapping[str, HubFile]


def ask_hub(identity: str, kind: Kind, revision: str | None = None) -> HubRepository:
    """The repository called ``identity`` at a branch, tag or commit (None: main); an answer takes at most 10 seconds.

    Raises InputError where it is missing or gated or has no such revision, HubUnreachableError where the Hub cannot be
    asked.
    """
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        if kind == "dataset":
            held = hub.dataset_info(identity, timeout=ANSWER_SECONDS)
            return HubRepository(str(held.sha), tuple(file.rfilename for file in held.siblings or ()), {})
        answer = hub.model_info(identity, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        about = {
            file.rfilename: HubFile(file.size or 0, file.lfs.sha256 if file.lfs else str(file.blob_id))
            for file in answer.siblings or ()
        }
        return HubRepository(str(answer.sha), tuple(about), about)
    except Exception as error:  # the Hub's own, those of the HTTP library, those of an answer that is no Hub's
        raise hub_error(error, identity, kind, revision) from None


def mute_disk_warnings() -> None:
    """Have huggingface_hub not warn of a disk on which a file may not fit: one that is full is an error here."""
    warnings.filterwarnings("ignore", message="Not enough free disk space", category=UserWarning)


def hub_error(error: Exception, identity: str, kind: Kind, revision: str | None = None) -> InputError:
    """What to tell a user about ``error`` from huggingface_hub. What to do without a network is the caller's to say."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # that a file is not in the cache either says less than why it was asked for
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{identity} is gated: accept its terms on the Hub, then set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"the Hub has no {kind} {identity}, or it is private: check the name, or set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{identity} has no revision {revision}: give --revision a branch, a tag or the full hash of a commit"
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == UNAUTHORISED:
        return InputError("the Hub does not know the token that it was given: set HF_TOKEN to another, or to nothing")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError(f"{identity} is not fetched from the Hub, as HF_HUB_OFFLINE is set")
    lines = str(error).strip().splitlines()
    detail = f": {lines[0][:200]}" if lines else ""
    return HubUnreachableError(f"{identity} cannot be fetched from the Hub ({type(error).__name__}{detail})")
