"""Text sources: where documents come from. Adding one means adding a row to ``NAMED_SOURCES`` or a file suffix.

A source yields documents as strings, in a fixed order, lazily; what it is is recorded in the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from capture.hub import HubUnreachableError, ask_hub
from schemas.errors import InputError

__all__ = ["NAMED_SOURCES", "TextSource", "documents", "parse_text", "pinned"]

NO_NETWORK_HINT = "without a network, use --text pydoc (English prose that every Python ships), or a local file"
SHUFFLE_BUFFER_DOCUMENTS = 10_000
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class TextSource:
    """What ``--text`` names: ``kind`` is pydoc, file or hub; the rest as the kind needs it."""

    kind: str
    name: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
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
        if options and not NAMED_SOURCES[name].is_remote:
            raise InputError(f"--text {text}: {name} takes no {', '.join(sorted(options))}")
        return replace(NAMED_SOURCES[name], **options)
    path = Path(os.path.expanduser(name))  # Path's own raises for a user whom nobody knows
    if path.suffix in FILE_READERS:
        if not os.path.isfile(path):  # and this for a name too long
            raise InputError(f"--text {name}: there is no such file")
        if not os.access(path, os.R_OK):
            raise InputError(f"--text {name}: no permission to read it")
        unused = set(options) - ({"column"} if path.suffix != ".txt" else set())
        if unused:
            raise InputError(f"--text {text}: a {path.suffix} file takes no {', '.join(sorted(unused))}")
        return TextSource("file", path.name, path=path, **options)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.exists(path):
        return TextSource("hub", name, **options)
    raise InputError(
        f"--text {text}: neither {', '.join(NAMED_SOURCES)}, a {', '.join(FILE_READERS)} file, "
        "nor a Hub dataset OWNER/NAME"
    )


def documents(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    """The documents of ``source`` in its own order, or shuffled with a seed (remote ones within a buffer).

    Empty documents are passed over. Raises InputError where the source cannot be read.
    """
    if shuffle_seed is not None and shuffle_seed < 0:
        raise InputError(f"--seed {shuffle_seed}: must be at least 0")
    yield from (document for document in _READERS[source.kind](source, shuffle_seed) if document.strip())


def _pydoc(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    yield from texts if shuffle_seed is None else _shuffled(texts, shuffle_seed)


def _file(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    assert source.path is not None  # set by parse_text for this kind
    texts = FILE_READERS[source.path.suffix](source, source.path)
    yield from texts if shuffle_seed is None else _shuffled(list(texts), shuffle_seed)


def _txt(source: TextSource, path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"--text {path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _jsonl(source: TextSource, path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"--text {path}: line {number} is not JSON in UTF-8: {_sentence(error)}") from None
            if not isinstance(row, dict):
                raise InputError(f"--text {path}: line {number} holds a {type(row).__name__}, not an object of columns")
            for document in _column([row], source):
                if not document.isascii() and re.search("[\ud800-\udfff]", document):
                    raise InputError(f"--text {path}: line {number} holds half of a surrogate pair, which is no text")
                yield document


def _parquet(source: TextSource, path: Path) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if source.column not in names:
            raise _no_column(source, names)
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[source.column]):
            yield from _column(batch.to_pylist(), source)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"--text {path}: cannot be read as parquet: {_sentence(error)}") from None


FILE_READERS: Mapping[str, Callable[[TextSource, Path], Iterator[str]]] = MappingProxyType(
    {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}
)
"""Suffix of a local file -> its reader. They read no more than is asked for, and need no network."""


def pinned(source: TextSource) -> TextSource:
    """``source`` with the commit that its dataset is at now; local ones as they are.

    Raises InputError where the Hub has no such dataset, keeps it for others, or is out of reach.
    """
    if not source.is_remote:
        return source
    try:
        return replace(source, revision=ask_hub(source.name, "dataset").revision)
    except HubUnreachableError as error:
        raise InputError(f"--text {source.name}: {error}; {NO_NETWORK_HINT}") from None
    except InputError as error:
        raise InputError(f"--text {source.name}: {error}") from None


def _hub(source: TextSource, shuffle_seed: int | None) -> Iterator[str]:
    import datasets

    # A connection that breaks is tried again for a minute; as they come, these libraries go on for ten.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 2
    source = source if source.revision else pinned(source)
    try:
        rows = datasets.load_dataset(
            source.name, source.config, split=source.split, revision=source.revision, streaming=True
        )
        if shuffle_seed is not None:
            rows = rows.shuffle(seed=shuffle_seed, buffer_size=SHUFFLE_BUFFER_DOCUMENTS)
        yield from _column(rows, source)
    except InputError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:  # it was there a moment ago: what is refused is reading
        raise InputError(
            f"--text {source.name}: {_sentence(error)} Accept its terms on the Hub, then set HF_TOKEN to a token of "
            "that account"
        ) from None
    except ValueError as error:  # no such config or split; the message lists those there are
        raise InputError(f"--text {source.name}: {_sentence(error)}") from None
    except Exception as error:  # connection errors reach us as those of httpx, fsspec or the Hub's own
        raise InputError(f"--text {source.name}: cannot be streamed ({_sentence(error)}); {NO_NETWORK_HINT}") from error


_READERS: Mapping[str, Callable[[TextSource, int | None], Iterator[str]]] = MappingProxyType(
    {"pydoc": _pydoc, "file": _file, "hub": _hub}
)


def _column(rows: Iterable[Mapping[str, Any]], source: TextSource) -> Iterator[str]:
    for row in rows:
        if source.column not in row:
            raise _no_column(source, row)
        document = row[source.column]
        if document is None:
            continue
        if not isinstance(document, str):
            raise InputError(
                f"--text {source.name}: column {source.column!r} holds {type(document).__name__}, not text"
            )
        yield document


def _no_column(source: TextSource, names: Iterable[str]) -> InputError:
    return InputError(
        f"--text {source.name}: no column {source.column!r}; columns: {', '.join(names)}. "
        f"Choose with --text {source.name},column=NAME"
    )


def _shuffled(texts: list[str], shuffle_seed: int) -> list[str]:
    import numpy as np

    order = np.random.default_rng(shuffle_seed).permutation(len(texts))
    return [texts[index] for index in order]


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
