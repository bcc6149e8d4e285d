"""Making a run store: whole, under another name, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import zarr

from schemas.codecs import codecs_of
from schemas.durable import flush, is_full, sync
from schemas.errors import CapacityError, StoreError, StoreExistsError
from schemas.event_loop import finish_tasks
from schemas.layout import ArraySpec
from schemas.provenance import RunInfo

__all__ = ["create_run", "draft_of", "remove_drafts"]


def create_run(
    path: str | os.PathLike[str],
    info: RunInfo,
    arrays: Iterable[ArraySpec],
    contents: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Create the store at a local ``path`` with its attributes, empty arrays and the given whole ``contents``.

    It is made beside ``path`` under another name and renamed when ready, so a store never exists by half; what
    killed processes of this machine left beside it is removed. Raises StoreExistsError where ``path`` exists, or
    another process makes it meanwhile, CapacityError where its disk is full, StoreError where it cannot be written.
    """
    final = Path(path)
    if os.path.exists(final):  # Path.exists raises for a name too long
        raise StoreExistsError(f"{final} exists already; give another --store, or --overwrite to replace it")
    draft = draft_of(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(final)
        group = zarr.create_group(
            zarr.storage.LocalStore(draft),
            attributes=info.model_dump(mode="json"),
            zarr_format=3,
            overwrite=True,
        )
        for spec in arrays:
            array = group.create_array(
                spec.name,
                shape=spec.shape,
                chunks=spec.chunks,
                dtype=spec.dtype,
                fill_value=spec.fill,
                dimension_names=spec.dims,
                attributes=dict(spec.attributes),
                chunk_key_encoding={"name": "default", "separator": "."},
                config={"write_empty_chunks": True},
                **codecs_of(spec.codec, spec.dtype.itemsize),
            )
            if spec.name in contents:
                if contents[spec.name].shape != spec.shape:  # zarr-python would cut it to fit, without a word
                    raise ValueError(f"{spec.name} has shape {spec.shape}, not {contents[spec.name].shape}")
                array[...] = contents[spec.name]
        with warnings.catch_warnings():  # consolidated metadata of Zarr v3 is zarr-python's own, and optional
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(group.store)
        sync(file for file in draft.rglob("*") if file.is_file())
        draft.rename(final)
        flush(final.parent)
    except OSError as error:
        finish_tasks()  # or what is still being written stays
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(final):
            raise StoreExistsError(
                f"{final} was made by another process meanwhile; run the same command again to continue it"
            ) from None
        if is_full(error):
            raise CapacityError(
                f"the disk is full: {final} cannot be made. Make room and run the same command again, or give --store"
            ) from None
        raise StoreError(
            f"cannot write {final}: {error.strerror or error}; give a writable place with --store"
        ) from None
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def draft_of(path: str | os.PathLike[str]) -> Path:
    """Where this process makes the store that becomes ``path``."""
    final = Path(path)
    return final.with_name(f"{_prefix(final)}{os.getpid()}")


def remove_drafts(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes of this machine left beside ``path`` when they were making a store there."""
    prefix = _prefix(Path(path))
    for leftover in Path(path).parent.glob(f"{glob.escape(prefix)}*"):
        if not _alive(leftover.name.removeprefix(prefix)):
            shutil.rmtree(leftover, ignore_errors=True)


def _prefix(final: Path) -> str:
    return f"{final.name}.new-{socket.gethostname()}-"


def _alive(process: str) -> bool:
    """True where another process of this machine may have the id ``process``."""
    if process == str(os.getpid()):
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # someone else's process, or no process id at all
        return True
    return True
