"""Text sources: what ``--text`` accepts, the documents that come out, and what is said of files that cannot be read."""

from __future__ import annotations

import itertools
import json
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from capture.text import NAMED_SOURCES, documents, parse_text
from schemas.errors import InputError
from tests.capture.refused import as_nobody

TEXTS = ["The first.", "", "Zweitens, naïve 猫.", None, "  \n\t ", "Third\nand last.\x00"]
"""A column with what a real one has: empty, missing and blank documents between others."""
KEPT = ["The first.", "Zweitens, naïve 猫.", "Third\nand last.\x00"]

Writer = Callable[[Path, Sequence[str | None]], Path]


def rows(texts: Sequence[str | None]) -> list[dict[str, Any]]:
    """Rows with the columns of FineWeb-Edu."""
    return [
        {
            "text": text,
            "id": f"<urn:uuid:{number}>",
            "dump": "CC-MAIN-2013-20",
            "url": f"http://example.org/{number}",
            "file_path": "segments/0/warc.gz",
            "language": "en",
            "language_score": 0.97,
            "token_count": len(text or ""),
            "score": 3.1,
            "int_score": 3,
        }
        for number, text in enumerate(texts)
    ]


def write_parquet(path: Path, texts: Sequence[str | None], **options: Any) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows(texts)), path, **options)
    return path


def write_jsonl(path: Path, texts: Sequence[str | None]) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows(texts)), encoding="utf-8")
    return path


WRITERS: dict[str, Writer] = {".parquet": write_parquet, ".jsonl": write_jsonl}


@pytest.fixture(params=WRITERS)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Function from texts to a .parquet and then a .jsonl file of them; its name holds what globs and URLs give
    meaning to."""

    def written(texts: Sequence[str | None]) -> Path:
        return WRITERS[request.param](tmp_path / f"a [1] *? #%41{request.param}", texts)

    return written


def read(text: str | Path, seed: int | None = None) -> list[str]:
    return list(documents(parse_text(str(text)), seed))


def refusal(text: str | Path, seed: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read(text, seed)
    message = str(caught.value)
    assert message.startswith(("--text ", "--seed "))
    return message


def test_pydoc_is_what_python_ships_in_the_order_of_its_names() -> None:
    assert read("pydoc") == [topics[name] for name in sorted(topics) if topics[name].strip()]


def test_a_txt_file_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xef\xbb\xbfNa\xc3\xafve.\r\nSecond line.\n")
    assert read(path) == ["Naïve.\nSecond line.\n"]


def test_a_table_is_its_text_column_in_order_without_empty_documents(table: Callable[..., Path]) -> None:
    assert read(table(TEXTS)) == KEPT


def test_another_column_can_be_chosen(table: Callable[..., Path]) -> None:
    assert read(f"{table(TEXTS)},column=url") == [f"http://example.org/{number}" for number in range(len(TEXTS))]


@pytest.mark.parametrize("kind", ["large_string", "dictionary"])
def test_a_parquet_column_of_another_string_type_is_text(kind: str, tmp_path: Path) -> None:
    column = pa.array(TEXTS)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(pa.large_string())
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == KEPT


@pytest.mark.parametrize("name", ["empty.txt", "blank.txt", "empty.jsonl", "empty.parquet"])
def test_a_file_without_text_has_no_documents(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        write_parquet(path, ["gone"])
        parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    else:
        path.write_text("\n \n" if name.startswith("blank") else "")
    assert read(path) == []


def test_a_wrong_column_is_refused_with_the_columns_there_are(table: Callable[..., Path]) -> None:
    message = refusal(f"{table(KEPT)},column=body")
    assert "no column 'body'" in message
    assert all(name in message for name in rows(["x"])[0])
    assert ",column=NAME" in message


@pytest.mark.parametrize(("column", "held"), [("int_score", "int"), ("score", "float")])
def test_a_column_of_numbers_is_refused(column: str, held: str, table: Callable[..., Path]) -> None:
    assert f"column {column!r} holds {held}, not text" in refusal(f"{table(KEPT)},column={column}")


def test_a_missing_column_in_a_later_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"txt": "two"}\n')
    assert "no column 'text'; columns: txt" in refusal(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "cut of', "line 2 is not JSON"),
        (b"plain text", "line 2 is not JSON"),
        (b'{"text": "caf\xe9"}', "line 2 is not JSON in UTF-8"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'["a", "b"]', "line 2 holds a list, not an object"),
        (b'"text"', "line 2 holds a str, not an object"),
    ],
)
def test_a_damaged_jsonl_file_is_refused_with_the_line(line: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    assert why in refusal(path)


@pytest.mark.parametrize("damage", ["truncated", "no parquet", "empty", "flipped"])
def test_a_damaged_parquet_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [f"document {n} " * 50 for n in range(200)], write_page_checksum=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 8
    data[middle : middle + 64] = bytes(value ^ 0xFF for value in data[middle : middle + 64])
    held = {"truncated": data[: len(data) // 2], "no parquet": b"text\nhello\n", "empty": b"", "flipped": bytes(data)}
    path.write_bytes(held[damage])
    assert f"{path}: cannot be read as parquet" in refusal(path)


def test_a_txt_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("A café".encode("latin-1"))
    assert "not UTF-8" in refusal(path)
    assert "at byte 5" in refusal(path)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (".txt,column=text", "a .txt file takes no column"),
        (".jsonl,config=a,split=b", "a .jsonl file takes no config, split"),
        (".parquet,colour=red", "'colour=red' is no option"),
        (".jsonl,column", "'column' is no option"),
        (".jsonl,column=", "'column=' is no option"),
        (".jsonl,", "'' is no option"),
    ],
)
def test_malformed_options_are_refused(options: str, part: str, tmp_path: Path) -> None:
    (tmp_path / f"a{options.split(',')[0]}").write_text("x")
    assert part in refusal(f"{tmp_path / 'a'}{options}")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("pydoc,column=text", "pydoc takes no column"),
        ("missing.txt", "there is no such file"),
        ("finewebedu", "neither fineweb-edu, pydoc"),
        ("", "neither fineweb-edu, pydoc"),
        ("a/b/c", "nor a Hub dataset OWNER/NAME"),
        ("notes.pdf", "a .txt, .jsonl, .parquet file"),
    ],
)
def test_what_is_no_source_is_refused(text: str, part: str) -> None:
    assert part in refusal(text)


def test_a_folder_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "folder.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "neither" in refusal("owner/name")
    assert "no such file" in refusal("folder.txt")


def test_hub_datasets_take_options() -> None:
    source = parse_text("allenai/c4,config=en,split=validation,column=body")
    assert (source.kind, source.name, source.config) == ("hub", "allenai/c4", "en")
    assert (source.split, source.column) == ("validation", "body")
    preset = parse_text("fineweb-edu,config=sample-100BT")
    assert (preset.name, preset.config, preset.split) == ("HuggingFaceFW/fineweb-edu", "sample-100BT", "train")
    assert NAMED_SOURCES["fineweb-edu"].config == "sample-10BT"


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, where other users may not look at all
        Path(folder).chmod(0o755)
        path = Path(folder, "secret.txt")
        path.write_text("hush")
        path.chmod(0)
        with as_nobody():
            assert "no permission to read it" in refusal(path)


def test_a_seed_shuffles_the_same_way_every_time(table: Callable[..., Path]) -> None:
    texts = [f"document {number}" for number in range(100)]
    path = table(texts)
    assert read(path) == texts
    assert read(path, 7) == read(path, 7)
    assert sorted(read(path, 7)) == sorted(texts)
    assert len({tuple(read(path, seed)) for seed in (None, 0, 7, 8)}) == 4


def test_a_seed_shuffles_pydoc_and_is_the_same_for_every_kind_of_file(tmp_path: Path) -> None:
    assert read("pydoc", 1) == read("pydoc", 1) != read("pydoc")
    assert sorted(read("pydoc", 1)) == sorted(read("pydoc"))
    texts = [f"document {number}" for number in range(20)]
    assert read(write_jsonl(tmp_path / "a.jsonl", texts), 3) == read(write_parquet(tmp_path / "a.parquet", texts), 3)


def test_a_negative_seed_is_refused(table: Callable[..., Path]) -> None:
    assert "--seed -1: must be at least 0" in refusal(table(KEPT), -1)


def test_documents_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "two"}\ndamaged\n')
    assert list(itertools.islice(documents(parse_text(str(path)), None), 2)) == ["one", "two"]
    assert "line 3" in refusal(path)


def test_row_groups_of_a_parquet_file_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    texts = [f"document {number} " * 20 for number in range(2000)]
    path = write_parquet(tmp_path / "a.parquet", texts, row_group_size=500, compression="zstd")
    last = parquet.ParquetFile(path).metadata.row_group(3).column(0)
    with path.open("r+b") as stream:
        stream.seek(last.data_page_offset)
        stream.write(b"\xff" * 200)
    assert list(itertools.islice(documents(parse_text(str(path)), None), 500)) == texts[:500]
    assert "cannot be read as parquet" in refusal(path)


def test_a_local_file_needs_no_network(table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def connect(*address: Any) -> None:
        called.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    assert read(table(TEXTS)) == KEPT
    assert not called
