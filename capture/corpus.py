"""Text to windows of token ids: tokenise each document once, join with end-of-text, cut; never decode again.

The ids that come out are the ids that the model sees and the store keeps.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capture.text import TextSource, documents
from capture.token_text import texts_of
from schemas.errors import InputError
from schemas.layout import MASK_DOCUMENT_START, MASK_SPECIAL

__all__ = [
    "Corpus",
    "WindowSettings",
    "cut_windows",
    "load_tokenizer",
    "parse_overlap",
    "read_corpus",
    "require_vocabulary",
    "tokenizer_digest",
]

Bos = Literal["auto", "always", "never"]
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class WindowSettings:
    """How windows are cut: ``sequences`` of exactly ``length`` ids, consecutive ones sharing ``overlap`` of them."""

    sequences: int
    length: int
    overlap: Fraction = Fraction(0)
    bos: Bos = "auto"
    shuffle_seed: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Windows of token ids and what made them; ``token_text`` by id, none of windows that come from a store.

    ``token_id`` is (sequence, position) int32; ``token_mask`` the same shape uint8, bits as in ``schemas.layout``.
    """

    token_id: npt.NDArray[np.int32]
    token_mask: npt.NDArray[np.uint8]
    bos_added: bool
    bos_token_id: int | None
    end_of_text_token: str
    end_of_text_token_id: int
    documents_read: int
    tokens_read: int
    token_text: Mapping[int, str] = field(default_factory=dict)

    @property
    def token_sha256(self) -> str:
        """Digest of the ids as little-endian int32, row by row."""
        return hashlib.sha256(self.token_id.astype("<i4").tobytes()).hexdigest()


def parse_overlap(text: str) -> Fraction:
    """``50%`` or ``0.5`` as an exact fraction in [0, 1); raises InputError for anything else."""
    number = text.removesuffix("%")
    if not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)", number):
        raise InputError(f"--overlap {text}: not a percentage; write it like 50%")
    value = Fraction(number) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise InputError(f"--overlap {text}: must be at least 0% and below 100%")
    return value


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a checkpoint's folder; raises InputError where there is none that transformers can read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        lines = str(error).strip().splitlines()
        raise InputError(f"{folder}: no readable tokenizer ({lines[0] if lines else error!r})") from None
    if set(tokenizer.get_vocab()) <= set(tokenizer.get_added_vocab()):
        # What transformers makes of a folder with a configuration and no tokenizer: every text has no tokens.
        raise InputError(f"{folder}: no readable tokenizer (a tokenizer.json or the like is missing)")
    return tokenizer


def require_vocabulary(corpus: Corpus, vocabulary_size: int, folder: Path) -> None:
    """Raise InputError where the windows hold an id that the model has no embedding for."""
    largest = int(corpus.token_id.max())
    if largest >= vocabulary_size:
        raise InputError(
            f"{folder}: its tokenizer is another model's: it gives id {largest}, and the model's vocabulary ends at "
            f"{vocabulary_size - 1}"
        )


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of all that decides a tokenizer's ids: its serialised rules, else its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())})
    return hashlib.sha256((rules + special).encode()).hexdigest()


def end_of_text(tokenizer: Any) -> tuple[str, int]:
    """The token that joins documents: ``<|endoftext|>`` where the vocabulary has it, else the end-of-sequence token.

    A chat model's end-of-sequence token ends a turn (``<|im_end|>``, ``<|return|>``); what separated documents when
    these models were trained is ``<|endoftext|>``. Raises InputError where there is neither.
    """
    known = tokenizer.get_vocab()
    if END_OF_TEXT in known:
        return END_OF_TEXT, int(known[END_OF_TEXT])
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text or end-of-sequence token to join documents with")
    return str(tokenizer.eos_token), int(tokenizer.eos_token_id)


def adds_bos(tokenizer: Any, bos: Bos) -> bool:
    """Whether each window starts with the beginning-of-sequence token: ``auto`` does as the tokenizer would."""
    if bos == "never":
        return False
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise InputError("--bos always: this tokenizer has no beginning-of-sequence token; use --bos never")
        return True
    if tokenizer.bos_token_id is None:
        return False
    ids = tokenizer("a")["input_ids"]
    return bool(ids and ids[0] == tokenizer.bos_token_id)


def read_corpus(source: TextSource, tokenizer: Any, settings: WindowSettings) -> Corpus:
    """Windows cut from ``source``, reading no more documents than they need.

    Raises InputError where the text is too short, saying how many windows there are.
    """
    separator, separator_id = end_of_text(tokenizer)
    bos_added = adds_bos(tokenizer, settings.bos)
    special = set(tokenizer.all_special_ids) | {separator_id}
    counted = [0]

    def tokenised() -> Iterator[list[int]]:
        for document in documents(source, settings.shuffle_seed):
            counted[0] += 1
            yield tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]

    ids, starts, windows = cut_windows(
        tokenised(), separator_id, settings, bos_id=tokenizer.bos_token_id if bos_added else None
    )
    if not counted[0]:
        raise InputError(f"--text {source.path or source.name} holds no text")
    if windows < settings.sequences:
        fix = f"lower --sequences to {windows}" if windows else f"lower --length (now {settings.length})"
        raise InputError(
            f"--text {source.name} has {windows} window{'' if windows == 1 else 's'} of {settings.length} tokens; "
            f"--sequences asks for {settings.sequences}: {fix}, or give more text"
        )
    mask = np.where(np.isin(ids, list(special)), MASK_SPECIAL, 0) | np.where(starts, MASK_DOCUMENT_START, 0)
    return Corpus(
        token_id=ids,
        token_mask=mask.astype(np.uint8),
        bos_added=bos_added,
        bos_token_id=tokenizer.bos_token_id if bos_added else None,
        end_of_text_token=separator,
        end_of_text_token_id=separator_id,
        documents_read=counted[0],
        tokens_read=int(_stream_length(settings, bos_added)),
        token_text=texts_of(tokenizer, ids),
    )


def _stream_length(settings: WindowSettings, bos_added: bool) -> int:
    content = settings.length - bos_added
    return (settings.sequences - 1) * _stride(settings, content) + content


def _stride(settings: WindowSettings, content: int) -> int:
    return content - int(content * settings.overlap)


def cut_windows(
    tokenised: Iterable[list[int]], separator_id: int, settings: WindowSettings, bos_id: int | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int]:
    """(ids, document starts, windows found) from tokenised documents, each followed by ``separator_id``.

    ``ids`` and ``starts`` are (windows, length), windows at most ``settings.sequences``. With ``bos_id`` every window
    begins with it and holds one id of text less. Consecutive windows start ``length - overlap * length`` ids apart.

    >>> settings = WindowSettings(sequences=2, length=3)
    >>> cut_windows([[5, 6], [7, 8, 9]], 0, settings, bos_id=None)[0].tolist()
    [[5, 6, 0], [7, 8, 9]]
    """
    content = settings.length - (bos_id is not None)
    if content < 1:
        raise InputError(f"--length {settings.length} leaves no room for text beside the --bos token; raise it to 2")
    stride = _stride(settings, content)
    needed = (settings.sequences - 1) * stride + content
    stream: list[int] = []
    starts: list[int] = []
    for ids in tokenised:
        starts.append(len(stream))
        stream += ids
        stream.append(separator_id)
        if len(stream) >= needed:
            break
    windows = 0 if len(stream) < content else min(settings.sequences, (len(stream) - content) // stride + 1)
    flat = np.asarray(stream, np.int32)
    first = np.zeros(len(stream), np.bool_)
    first[[start for start in starts if start < len(stream)]] = True
    at = (np.arange(windows) * stride)[:, None] + np.arange(content)[None, :]
    window_ids, window_starts = flat[at], first[at]
    if bos_id is not None:
        window_ids = np.concatenate([np.full((windows, 1), bos_id, np.int32), window_ids], axis=1)
        window_starts = np.concatenate([np.zeros((windows, 1), np.bool_), window_starts], axis=1)
    return window_ids, window_starts, windows
