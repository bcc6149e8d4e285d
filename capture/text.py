"""Text sources: where documents come from. Adding one means adding a row to ``NAMED_SOURCES`` or a file suffix.

A source yields documents as strings, in a fixed order, lazily; what it is is recorded in the store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from schemas.errors import InputError

__all__ = ["NAMED_SOURCES", "TextSource", "documents", "parse_text"]

NO_NETWORK_HINT = "without a network, use --text pydoc (English prose that every Python ships), or a local file"
SHUFFLE_BUFFER_DOCUMENTS = 10_000


@dataclass(frozen=True)
class TextSource:
    """What ``--text`` names: ``kind`` is pydoc, file or hub; the rest as the kind needs it."""

    kind: str
    name: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    path: Path | None = field(default=None, compare=False)

    @property
    def is_remote(self) -> bool:
        """True for a dataset on the Hub."""
        return self.kind == "hub"

    def sha256(self) -> str | None:
        """Digest of a local file's bytes; None for other kinds."""
        if self.path is None:
            return None
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


NAMED_SOURCES: Mapping[str, TextSource] = MappingProxyType(
    {
        "fineweb-edu": TextSource("hub", "HuggingFaceFW/fineweb-edu", config="sample-10BT"),
        "pydoc": TextSource("pydoc", "pydoc_data.topics"),
    }
)

FILE_READERS: Mapping[str, str] = MappingProxyType({".jsonl": "json", ".json": "json", ".parquet": "parquet"})
"""Suffix of a local file -> the ``datasets`` builder that streams it. A .txt file is one document."""

OPTIONS = ("config", "split", "column")


def parse_text(text: str) -> TextSource:
    """The source that ``--text`` names: ``pydoc``, ``fineweb-edu``, a file, or a Hub dataset ``OWNER/NAME``.

    Options follow after commas: ``allenai/c4,config=en,split=validation,column=text``; a file takes ``column``.
    Raises InputError for anything else.
    """
    name, *pairs = text.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not value or key not in OPTIONS:
            raise InputError(
                f"--text {text}: {pair!r} is no option; write NAME,key=value with key one of {', '.join(OPTIONS)}"
            )
        options[key] = value
    if name in NAMED_SOURCES:
        return replace(NAMED_SOURCES[name], **options)
    path = Path(name).expanduser()
    if path.suffix in {".txt", *FILE_READERS}:
        if not path.is_file():
            raise InputError(f"--text {name}: there is no such file")
        unused = set(options) - ({"column"} if path.suffix != ".txt" else set())
        if unused:
            raise InputError(f"--text {text}: a {path.suffix} file takes no {', '.join(sorted(unused))}")
        return TextSource("file", path.name, path=path, **options)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.exists():
        return TextSource("hub", name, **options)
    raise InputError(
        f"--text {text}: neither {', '.join(NAMED_SOURCES)}, a .txt, {', '.join(FILE_READERS)} file, "
        "nor a Hub dataset OWNER/NAME"
    )


def documents(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    """The documents of ``source`` in its own order, or shuffled with a seed (remote ones within a buffer).

    Empty documents are passed over. Raises InputError where the source cannot be read.
    """
    yield from (document for document in _READERS[source.kind](source, shuffle_seed) if document.strip())


def _pydoc(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    yield from texts if shuffle_seed is None else _shuffled(texts, shuffle_seed)


def _file(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    assert source.path is not None  # set by parse_text for this kind
    if source.path.suffix == ".txt":
        try:
            yield source.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"--text {source.path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        return
    import datasets

    builder = FILE_READERS[source.path.suffix]
    try:
        rows = datasets.load_dataset(builder, data_files=str(source.path), split="train", streaming=True)
        texts = _column(rows, source)
        yield from texts if shuffle_seed is None else _shuffled(list(texts), shuffle_seed)
    except InputError:
        raise
    except Exception as error:  # pyarrow and datasets raise a family of their own for a damaged file
        raise InputError(f"--text {source.path}: cannot be read as {builder}: {_sentence(error)}") from error


def _hub(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
        if shuffle_seed is not None:
            rows = rows.shuffle(seed=shuffle_seed, buffer_size=SHUFFLE_BUFFER_DOCUMENTS)
        yield from _column(rows, source)
    except InputError:
        raise
    except Exception as error:  # connection errors reach us as those of requests, httpx, fsspec or the Hub's own
        raise InputError(f"--text {source.name}: cannot be streamed ({_sentence(error)}); {NO_NETWORK_HINT}") from error


_READERS: Mapping[str, Callable[[TextSource, int | None], Iterator[str]]] = MappingProxyType(
    {"pydoc": _pydoc, "file": _file, "hub": _hub}
)


def _column(rows: Any, source: TextSource) -> Iterator[str]:
    for row in rows:
        if source.column not in row:
            raise InputError(
                f"--text {source.name}: no column {source.column!r}; columns: {', '.join(row)}. "
                f"Choose with --text {source.name},column=NAME"
            )
        document = row[source.column]
        if document is None:
            continue
        if not isinstance(document, str):
            raise InputError(
                f"--text {source.name}: column {source.column!r} holds {type(document).__name__}, not text"
            )
        yield document


def _shuffled(texts: list[str], shuffle_seed: int) -> list[str]:
    import numpy as np

    order = np.random.default_rng(shuffle_seed).permutation(len(texts))
    return [texts[index] for index in order]


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
