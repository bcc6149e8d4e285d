"""The Hub: which commit a repository is at, and why it cannot be had. Asked once, before anything is downloaded.

The libraries that download wait without a limit where nothing answers, or try for half a minute where nothing
listens; this one question has a time limit, so that a machine without a network is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import InputError

__all__ = ["HubRepository", "HubUnreachableError", "ask_hub", "hub_error"]

ANSWER_SECONDS = 10.0

Kind = Literal["model", "dataset"]


class HubUnreachableError(InputError):
    """The Hub does not answer, or not as a Hub does; what is in its cache may still be used."""


@dataclass(frozen=True)
class HubRepository:
    """A repository as its main branch is now: the commit and the paths of its files."""

    revision: str
    files: tuple[str, ...]


def ask_hub(identity: str, kind: Kind) -> HubRepository:
    """The repository called ``identity``; an answer takes at most 10 seconds.

    Raises InputError where it is missing or gated, HubUnreachableError where the Hub cannot be asked.
    """
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        about = (hub.model_info if kind == "model" else hub.dataset_info)(identity, timeout=ANSWER_SECONDS)
        return HubRepository(str(about.sha), tuple(file.rfilename for file in about.siblings or ()))
    except Exception as error:  # the Hub's own, those of the HTTP library, those of an answer that is no Hub's
        raise hub_error(error, identity, kind) from None


def hub_error(error: Exception, identity: str, kind: Kind) -> InputError:
    """What to tell a user about ``error`` from huggingface_hub. What to do without a network is the caller's to say."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{identity} is gated: accept its terms on the Hub, then set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"the Hub has no {kind} {identity}, or it is private: check the name, or set HF_TOKEN")
    lines = str(error).strip().splitlines()
    detail = f": {lines[0][:200]}" if lines else ""
    return HubUnreachableError(f"{identity} cannot be fetched from the Hub ({type(error).__name__}{detail})")
