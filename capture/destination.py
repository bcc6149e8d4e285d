"""The store's place: what is there already, whether it may be written or replaced, what is free around it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from capture.plan import CapturePlan
from capture.resume import kept_bytes
from schemas.create import draft_of
from schemas.errors import StoreError
from schemas.provenance import FORMAT
from schemas.run import Run, store_bytes
from schemas.run_writer import is_being_written

__all__ = ["Destination"]


class Destination:
    """Where ``--store`` points. ``run`` is the run to continue, None where a new one is to be made."""

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        """Look, and change nothing; raises StoreError where the place cannot be written or holds something else.

        Only what says that it is a run store, of any version, may be overwritten.
        """
        if not os.fspath(path):
            raise StoreError("--store is empty: give a path, or leave the flag out for runs/NAME.zarr")
        self.path = Path(path)
        self.overwrite = overwrite
        there = os.path.lexists(self.path)  # Path.exists raises for a name too long, or in a folder that is shut
        if overwrite or not there:
            self._require_short()
        self._require_writable(self.path if there and not overwrite else self.path.absolute().parent)
        self.run: Run | None = None
        self._replaces = False
        if not there:
            return
        if self.path.is_symlink() and not os.path.exists(self.path):
            raise StoreError(
                f"--store {path} is a link to {os.readlink(path)}, which is not there: remove it, or give another"
            )
        if overwrite and self.path.is_symlink():
            raise StoreError(
                f"--overwrite: --store {path} is a link to {os.readlink(path)}; give that path, or remove the link"
            )
        try:
            run = Run(self.path)
        except StoreError as error:
            if not (overwrite and self._is_run_store()):
                raise StoreError(f"--store {path} exists and is no run that can be continued: {error}") from None
            run = None
        self.run, self._replaces = (None, True) if overwrite else (run, False)

    def free_bytes(self, plan: CapturePlan) -> int:
        """Bytes free on its disk for ``plan``: with those of a store that is replaced, or of what its part holds."""
        nearest = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if os.path.isdir(p))
        held = store_bytes(self._trash) if self.overwrite else 0
        if self._replaces or (self.run is not None and len(plan.sequences) == plan.dimensions.sequences):
            held += store_bytes(self.path)
        elif self.run is not None:
            held += self.run.sequence_bytes(plan.sequences) + kept_bytes(self.run, plan.sequences)
        return shutil.disk_usage(nearest).free + held

    def clear(self) -> None:
        """Remove the store that ``--overwrite`` replaces, or what of one a killed ``--overwrite`` left beside it.

        Nothing otherwise, whatever has appeared there since.
        """
        replaces = self._replaces and os.path.exists(self.path)
        if replaces and is_being_written(self.path):
            raise StoreError(f"another capture is writing {self.path}; wait for it, or give another --store")
        if self.overwrite:
            shutil.rmtree(self._trash, ignore_errors=True)
        if replaces:
            self.path.rename(self._trash)
            while os.path.lexists(self._trash):
                with contextlib.suppress(FileNotFoundError):  # another --overwrite removes it, too
                    shutil.rmtree(self._trash)

    @property
    def _trash(self) -> Path:
        """One name for what is on its way out, whichever capture put it there, and that nobody else would give."""
        return self.path.with_name(f"{self.path.name}.replaced-by-capture")

    def _require_writable(self, folder: Path) -> None:
        """Raise StoreError unless ``folder`` can be written or made: known before a model is downloaded."""
        nearest = _nearest(folder)
        if not nearest.is_dir():
            raise StoreError(
                f"cannot write --store {self.path}: {nearest} is a file; give a folder that is not there yet"
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise StoreError(
                f"cannot write --store {self.path}: no permission to write in {nearest}; give another --store"
            )

    def _require_short(self) -> None:
        """Raise StoreError where the name, or one of a store that comes or goes, is longer than the disk takes."""
        draft = draft_of(self.path.absolute())
        names = [draft.name, *([self._trash.name] if self.overwrite else [])]
        for path in (draft, *(_nearest(draft.parent) / name for name in names)):
            try:
                os.lstat(path)
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise StoreError(
                        f"cannot write --store {self.path}: {error.strerror}: give a shorter path; a store's own name "
                        "may have about 200 characters"
                    ) from None

    def _is_run_store(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return f'"{FORMAT}"' in (self.path / "zarr.json").read_text(encoding="utf-8")
        return False


def _nearest(folder: Path) -> Path:
    """``folder``, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
