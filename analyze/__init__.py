"""Phase two: answer outlier criteria from a run store alone, out of core, without the model or torch.

Never imports ``capture``. The names below are imported when they are first used, so that importing this package, as
``analyze --help`` does, costs nothing.

>>> from analyze import answer, ask
>>> results = answer("runs/qwen3.zarr", ask("2:12:0.25", definition="llm-int8"))  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.answers import answer as answer
    from analyze.definitions import DEFINITIONS as DEFINITIONS
    from analyze.formats import render as render
    from analyze.question import Question as Question
    from analyze.question import ask as ask
    from analyze.results import Result as Result

__all__ = ["DEFINITIONS", "Question", "Result", "answer", "ask", "render"]

_HOMES = {
    "DEFINITIONS": "analyze.definitions",
    "Question": "analyze.question",
    "Result": "analyze.results",
    "answer": "analyze.answers",
    "ask": "analyze.question",
    "render": "analyze.formats",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
