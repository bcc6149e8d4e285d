"""A folder of files that are ours to replace: which they are is in its manifest, by their digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from analyze.destination import require_no_store
from schemas.errors import InputError

__all__ = ["MANIFEST", "replace_files", "require_folder"]

MANIFEST = "figures.json"
_PURPOSE = "files that analyze --plots wrote, with their SHA-256: it replaces and removes these, and no others"


def require_folder(path: str | os.PathLike[str]) -> Path:
    """The folder at ``path``, which need not exist; raises InputError with the fix where none can be written there."""
    folder = Path(path)
    if not os.fspath(path):
        raise InputError("--plots '' is no folder: name one, for example --plots figures")
    require_no_store(path, "--plots")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--plots {folder} is a file: name a folder, for example {folder.with_suffix('')}-figures")
    near = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
    if not near.is_dir():
        raise InputError(f"--plots {folder}: {near} is a file, not a folder: name a folder elsewhere")
    if not os.access(near, os.W_OK | os.X_OK):
        raise InputError(f"--plots {folder}: {near} cannot be written to: name a folder of yours")
    return folder


def replace_files(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Write ``files`` by name into the folder, which is made if need be, in place of those written there before.

    All are complete in a hidden folder before the first is renamed. The manifest names old and new while that goes
    on, so that after an interruption the same call puts things right. A file of one of these names that is not ours,
    or was changed since, raises InputError and nothing is touched; any other failure to write raises OSError.
    """
    folder = require_folder(path)
    made = _make(folder)
    try:
        ours = _manifest(folder)
        _require_ours(folder, files, ours)
        fresh = {name: [hashlib.sha256(content).hexdigest()] for name, content in files.items()}
        with _draft_folder(folder) as draft:
            for name, content in files.items():
                _write(draft / name, content)
            both = {name: [*ours.get(name, []), *fresh.get(name, [])] for name in sorted({*ours, *fresh})}
            _write_manifest(draft, folder, both)
            for name in files:
                os.replace(draft / name, folder / name)
            for name in ours.keys() - fresh.keys():
                if _is_ours(folder / name, ours[name]):
                    os.unlink(folder / name)
            _write_manifest(draft, folder, fresh)
    except BaseException:
        for one in made:  # the innermost first; one that holds something stays
            with contextlib.suppress(OSError):
                one.rmdir()
        raise
    return folder


def _make(folder: Path) -> list[Path]:
    """Make the folder and what is above it; those that were not there, innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--plots {folder} cannot be made: {error.strerror or error}: name another folder") from None
    return missing


def _manifest(folder: Path) -> dict[str, list[str]]:
    """Digests of each file that is ours; none of a folder without a manifest."""
    file = folder / MANIFEST
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["files"]
        return {str(name): [str(digest) for digest in digests] for name, digests in found.items() if "/" not in name}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file} is not a manifest that --plots wrote: move it, or name another folder") from None


def _require_ours(folder: Path, files: Mapping[str, bytes], ours: Mapping[str, list[str]]) -> None:
    foreign = [
        name for name in files if os.path.lexists(folder / name) and not _is_ours(folder / name, ours.get(name, []))
    ]
    if foreign:
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        changed = "was changed since --plots wrote it" if foreign[0] in ours else "was not written by --plots"
        raise InputError(
            f"{folder / foreign[0]}{others} {changed}, and is not replaced: move it away, or name another folder"
        )


def _is_ours(file: Path, digests: list[str]) -> bool:
    """Whether it is a plain file with one of these digests."""
    if file.is_symlink() or not file.is_file():
        return False
    return hashlib.sha256(file.read_bytes()).hexdigest() in digests


@contextlib.contextmanager
def _draft_folder(folder: Path) -> Iterator[Path]:
    draft = Path(tempfile.mkdtemp(prefix=".figures-", dir=folder))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(file: Path, content: bytes) -> None:
    with open(file, "xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _write_manifest(draft: Path, folder: Path, files: Mapping[str, list[str]]) -> None:
    text = json.dumps({"what": _PURPOSE, "files": dict(sorted(files.items()))}, indent=1) + "\n"
    _write(draft / MANIFEST, text.encode("utf-8"))
    os.replace(draft / MANIFEST, folder / MANIFEST)
