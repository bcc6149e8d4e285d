"""The text of the tokens that a run's windows are made of, as the store holds it: for people, not for computing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.codecs import COMMON
from schemas.errors import StoreError
from schemas.layout import ArraySpec

if TYPE_CHECKING:
    from schemas.run import Run

__all__ = ["TOKEN_TEXT", "stored_token_text", "token_texts"]

TOKEN_TEXT = "token_text"


def stored_token_text(texts: Mapping[int, str]) -> tuple[ArraySpec, npt.NDArray[np.uint8]]:
    """The array that holds these texts by token id, and its values: JSON in UTF-8, a byte each.

    >>> spec, values = stored_token_text({262: " the"})
    >>> spec.dims, bytes(values)
    (('text_byte',), b'{"262":" the"}')
    """
    text = json.dumps({str(token): texts[token] for token in sorted(texts)}, ensure_ascii=False, separators=(",", ":"))
    values = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    shape = (values.size,)
    return ArraySpec(TOKEN_TEXT, ("text_byte",), shape, shape, np.dtype("uint8"), 0, (), COMMON), values


def token_texts(run: Run) -> dict[int, str]:
    """The text of each token of the run by its id; none of a store that has no texts. Raises StoreError for damage."""
    if TOKEN_TEXT not in run:
        return {}
    stored = bytes(run.read(TOKEN_TEXT))
    try:
        held = json.loads(stored)
        return {int(token): str(text) for token, text in held.items()}
    except (ValueError, AttributeError):
        raise StoreError(f"{run.path}: {TOKEN_TEXT} is damaged: restore it from a copy") from None
