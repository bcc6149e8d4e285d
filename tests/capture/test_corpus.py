"""Text to windows with real tokenizers: what joins documents, what starts windows, and ids that stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from capture.corpus import Corpus, WindowSettings, load_tokenizer, read_corpus, tokenizer_digest
from capture.text import parse_text
from schemas.errors import InputError
from schemas.layout import MASK_DOCUMENT_START, MASK_SPECIAL
from schemas.token_text import stored_token_text
from tests.checkpoints import VOCABULARY_SIZE, write_tokenizer
from tests.checkpoints.architectures import BEGIN_OF_TEXT_ID, END_OF_TEXT_ID

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Function to a folder with a tokenizer; ``configuration`` replaces entries of its tokenizer_config.json."""

    def made(*, adds_bos: bool = False, **configuration: Any) -> Path:
        where = tmp_path / f"tokenizer{adds_bos}"
        where.mkdir(exist_ok=True)
        write_tokenizer(where, VOCABULARY_SIZE, adds_bos=adds_bos)
        file = where / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **configuration}))
        return where

    return made


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def corpus_of(path: Path, tokenizer: Path, sequences: int, length: int, **settings: Any) -> Corpus:
    asked = WindowSettings(sequences, length, **settings)
    return read_corpus(parse_text(str(path)), load_tokenizer(tokenizer), asked)


def plain_ids(tokenizer: Path, text: str) -> list[int]:
    """The ids of a text as the tokenizers library alone gives them, without special tokens."""
    ids: list[int] = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


def test_documents_are_joined_with_the_end_of_text_token(folder: Folder, tmp_path: Path) -> None:
    texts = ["The first one.", "And another, the second.", "naïve 猫"]
    joined = [each for text in texts for each in (*plain_ids(folder(), text), END_OF_TEXT_ID)]
    corpus = corpus_of(lines(tmp_path / "a.jsonl", texts), folder(), 3, len(joined) // 3)
    assert corpus.token_id.ravel().tolist() == joined[: len(joined) // 3 * 3]
    assert corpus.end_of_text_token_id == END_OF_TEXT_ID
    assert corpus.documents_read == 3


def test_ids_are_never_decoded_and_encoded_again(folder: Folder, tmp_path: Path) -> None:
    """Windows of 4 cut through characters of 3 bytes: decoding them loses bytes that encoding does not bring back."""
    path = tmp_path / "cats.txt"
    path.write_text("猫" * 40, encoding="utf-8")
    corpus = corpus_of(path, folder(), 20, 4)
    ids = plain_ids(folder(), "猫" * 40)
    assert corpus.token_id.ravel().tolist() == ids[: 20 * 4]
    tokenizer = load_tokenizer(folder())
    again = [tokenizer(tokenizer.decode(window))["input_ids"] for window in corpus.token_id]
    assert sum(new != old for new, old in zip(again, corpus.token_id.tolist(), strict=True)) > 10


def test_tokens_read_as_the_text_that_they_are_of(folder: Folder, tmp_path: Path) -> None:
    text = "one two  three <four> and again one two"
    corpus = corpus_of(lines(tmp_path / "a.jsonl", [text]), folder(), 1, 8, bos="always")
    ids = corpus.token_id.ravel().tolist()
    assert set(corpus.token_text) == set(ids)
    assert text.startswith("".join(corpus.token_text[token] for token in ids[1:]))
    spec, values = stored_token_text(corpus.token_text)
    assert spec.shape == values.shape
    assert json.loads(bytes(values)) == {str(token): words for token, words in corpus.token_text.items()}


def test_the_mask_marks_special_tokens_and_document_starts(folder: Folder, tmp_path: Path) -> None:
    texts = ["one two", "", "three", "four five six seven eight nine"]
    corpus = corpus_of(lines(tmp_path / "a.jsonl", texts), folder(), 4, 7, bos="always")
    special = np.isin(corpus.token_id, [BEGIN_OF_TEXT_ID, END_OF_TEXT_ID])
    assert np.array_equal((corpus.token_mask & MASK_SPECIAL) != 0, special)
    stream: list[int] = []
    firsts = []
    for text in filter(None, texts):
        firsts.append(len(stream))
        stream += [*plain_ids(folder(), text), END_OF_TEXT_ID]
    expected = np.zeros((4, 7), np.bool_)
    for first in firsts:
        if first < 4 * 6:
            expected[first // 6, 1 + first % 6] = True
    assert expected.sum() >= 2
    assert np.array_equal((corpus.token_mask & MASK_DOCUMENT_START) != 0, expected)
    assert corpus.token_mask.dtype == np.uint8
    assert corpus.token_mask.max() <= MASK_SPECIAL | MASK_DOCUMENT_START


@pytest.mark.parametrize(
    ("adds", "bos", "added"),
    [
        (False, "auto", False),
        (True, "auto", True),
        (False, "always", True),
        (True, "always", True),
        (False, "never", False),
        (True, "never", False),
    ],
)
def test_windows_begin_as_asked(adds: bool, bos: Any, added: bool, folder: Folder, tmp_path: Path) -> None:
    corpus = corpus_of(lines(tmp_path / "a.jsonl", ["word " * 60]), folder(adds_bos=adds), 3, 8, bos=bos)
    assert corpus.bos_added is added
    assert (corpus.token_id[:, 0] == BEGIN_OF_TEXT_ID).all() == added
    assert np.count_nonzero(corpus.token_id == BEGIN_OF_TEXT_ID) == 3 * added
    assert corpus.bos_token_id == (BEGIN_OF_TEXT_ID if added else None)
    text = corpus.token_id[:, added:].ravel().tolist()
    assert text == plain_ids(folder(), "word " * 60)[: len(text)]


def test_a_tokenizer_without_a_first_token(folder: Folder, tmp_path: Path) -> None:
    path, without = lines(tmp_path / "a.jsonl", ["word " * 60]), folder(bos_token=None)
    assert not corpus_of(path, without, 2, 8, bos="auto").bos_added
    with pytest.raises(InputError, match="--bos always: this tokenizer has no beginning-of-sequence token"):
        corpus_of(path, without, 2, 8, bos="always")


def test_end_of_text_is_chosen_over_the_end_of_a_turn(folder: Folder, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ["word"] * 20)
    corpus = corpus_of(path, folder(eos_token="<|startoftext|>"), 2, 8)
    assert (corpus.end_of_text_token, corpus.end_of_text_token_id) == ("<|endoftext|>", END_OF_TEXT_ID)


def test_the_end_of_sequence_token_joins_where_there_is_no_end_of_text(folder: Folder, tmp_path: Path) -> None:
    renamed = folder()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = renamed / name
        file.write_text(file.read_text().replace("<|endoftext|>", "</s>"))
    path = lines(tmp_path / "a.jsonl", ["word"] * 20)
    corpus = corpus_of(path, renamed, 2, 8)
    assert (corpus.end_of_text_token, corpus.end_of_text_token_id) == ("</s>", END_OF_TEXT_ID)
    configuration = renamed / "tokenizer_config.json"
    configuration.write_text(json.dumps({**json.loads(configuration.read_text()), "eos_token": None}))
    with pytest.raises(InputError, match="no end-of-text or end-of-sequence token"):
        corpus_of(path, renamed, 2, 8)


@pytest.mark.parametrize("documents", [1, 2, 5])
def test_too_little_text_says_how_many_windows_there_are(documents: int, folder: Folder, tmp_path: Path) -> None:
    path, tokenizer = lines(tmp_path / "a.jsonl", ["some more words here"] * documents), folder()
    windows = documents * (len(plain_ids(tokenizer, "some more words here")) + 1) // 6
    with pytest.raises(InputError) as caught:
        corpus_of(path, tokenizer, windows + 1, 6)
    message = str(caught.value)
    assert f"has {windows} window{'s' * (windows != 1)} of 6 tokens; --sequences asks for {windows + 1}" in message
    assert f"lower --sequences to {windows}" in message
    assert corpus_of(path, tokenizer, windows, 6).token_id.shape == (windows, 6)


@pytest.mark.parametrize("texts", [[], [""], ["  "]])
def test_no_text_at_all_is_named_with_its_path(texts: list[str], folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--text .*/\S+ holds no text"):
        corpus_of(lines(tmp_path / "a.jsonl", texts), folder(), 1, 100)


def test_less_than_one_window_asks_for_a_shorter_one(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 0 windows of 100 tokens.*lower --length \(now 100\)"):
        corpus_of(lines(tmp_path / "a.jsonl", ["short"]), folder(), 1, 100)


def test_no_more_documents_are_read_than_the_windows_need(folder: Folder, tmp_path: Path) -> None:
    tokenizer, text = folder(), "eleven words of text that are all the same every time"
    each = len(plain_ids(tokenizer, text)) + 1
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps({'text': text})}\n" * 3 + "damaged\n")
    corpus = corpus_of(path, tokenizer, 1, 3 * each)
    assert (corpus.documents_read, corpus.tokens_read) == (3, 3 * each)
    with pytest.raises(InputError, match="line 4"):
        corpus_of(path, tokenizer, 1, 3 * each + 1)


def test_half_a_surrogate_pair_is_refused(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "half \\ud83d a pair, and more words after it"}\n')
    with pytest.raises(InputError, match="line 1 holds half of a surrogate pair"):
        corpus_of(path, folder(), 1, 4)


def test_the_digest_of_a_tokenizer_follows_its_rules(folder: Folder, tmp_path: Path) -> None:
    plain = tokenizer_digest(load_tokenizer(folder()))
    assert plain == tokenizer_digest(load_tokenizer(folder()))
    assert plain != tokenizer_digest(load_tokenizer(folder(adds_bos=True)))
    assert plain != tokenizer_digest(load_tokenizer(folder(eos_token="<|startoftext|>")))


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}'])
def test_a_folder_without_a_readable_tokenizer_is_refused(content: str | None, folder: Folder) -> None:
    where = folder()
    if content is None:
        for file in where.iterdir():
            file.unlink()
    else:
        (where / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="no readable tokenizer"):
        load_tokenizer(where)
