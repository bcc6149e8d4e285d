"""Commands that have to fail: the message they print, what they leave behind, and a user without privileges."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.cli import main

__all__ = ["as_nobody", "refused", "tree"]

NOBODY = 65534


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 2) -> str:
    """The one message that ``capture`` with ``arguments`` prints on stderr before it exits with ``status``."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    first, separator, message = printed.err.rpartition("capture: error: ")
    assert separator, printed.err
    assert first == ""
    return message.rstrip("\n")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: path -> bytes, None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Run as a user whom file permissions bind: root is made nobody for the while, others stay who they are."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
