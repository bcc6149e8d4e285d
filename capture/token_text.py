"""What each token reads like, by its tokenizer, so that a store can be looked at without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["texts_of"]


def texts_of(tokenizer: Any, ids: npt.NDArray[np.int32]) -> dict[int, str]:
    """The text of each distinct id; U+FFFD stands for bytes that are a part of a letter.

    Each is decoded after a letter, which is cut off again: tokenizers drop the space that begins a text.
    """

    def decoded(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    letter = [int(token) for token in tokenizer("a", add_special_tokens=False)["input_ids"]][-1:]
    before = decoded(letter)
    found = {}
    for token in np.unique(ids).tolist():
        after = decoded([*letter, token])
        found[token] = after[len(before) :] if after.startswith(before) else decoded([token])
    return found
