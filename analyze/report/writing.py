"""The page as a file: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from analyze.destination import require_no_store
from analyze.overviews.results import Overview
from analyze.report.html import report_html
from schemas.errors import InputError

__all__ = ["require_writable", "write_report"]

_GENERATOR = b'<meta name="generator" content="outlier-features">'
_HEAD_BYTES = 1024


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The file at ``path``; raises InputError with the fix where none can be written there.

    A page that this wrote earlier, or an empty file, may be there.
    """
    require_no_store(path, "--report")
    file = Path(path)
    if file.is_dir():
        raise InputError(f"--report {file} is a directory: name a file in it, for example {file / 'report.html'}")
    folder = file.parent
    if not folder.is_dir():
        raise InputError(f"--report {file}: there is no directory {folder}: make it first (mkdir -p {folder})")
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise InputError(f"--report {file} cannot be written: give a file in a directory of yours")
    if file.is_file() and file.stat().st_size and not _is_a_report(file):
        raise InputError(
            f"--report {file} was not written by --report, and is not replaced: move it away, or name another file"
        )
    return file


def _is_a_report(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb") as stream:
        return _GENERATOR in stream.read(_HEAD_BYTES)
    return False


def write_report(overview: Overview, path: str | os.PathLike[str]) -> int:
    """Write the page of ``overview`` and return its bytes; an existing file is replaced once the new one is whole."""
    file = require_writable(path)
    text = report_html(overview).encode("utf-8")
    try:
        descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:100]}.", suffix=".new")
    except OSError as error:
        raise InputError(f"--report {file} cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, file)
    except OSError as error:
        raise InputError(f"--report {file} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return len(text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
