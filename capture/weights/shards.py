"""Where each tensor of a checkpoint is, by the headers of its safetensors files; and their bytes, read by position.

A file is opened when a tensor of it is first read, and not before: `locate` may have to fetch it.
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, MappingProxyType
from typing import Any

import torch

from capture.checkpoint import safetensors_header, weight_files
from schemas.errors import InputError

__all__ = ["Shards", "StoredTensor", "stored_tensors", "tensors_in"]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
"""By the names in a safetensors header."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: the name of its file, the position of its first byte there, its dtype and shape."""

    name: str
    file: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements, which are contiguous."""
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensors(file: str, header: Mapping[str, Any], start: int) -> dict[str, StoredTensor]:
    """The tensors of ``file``, whose header (without ``__metadata__``) is ``header`` and whose data begin at ``start``.

    Raises ValueError for a dtype that is unknown here, and for a tensor whose bytes are not those of its shape.
    """
    tensors: dict[str, StoredTensor] = {}
    for name, about in header.items():
        if about["dtype"] not in DTYPES:
            raise ValueError(f"tensor {name} has dtype {about['dtype']}, which is not read here")
        begin, end = about["data_offsets"]
        tensor = StoredTensor(name, file, start + begin, DTYPES[about["dtype"]], tuple(about["shape"]))
        if end - begin != tensor.size_bytes:
            raise ValueError(f"tensor {name} has {end - begin} bytes, its shape {list(tensor.shape)} says otherwise")
        tensors[name] = tensor
    return tensors


def tensors_in(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file on this machine, by its header.

    Raises InputError, with the file and the tensor, for one that is no safetensors file, or ends too early.
    """
    try:
        tensors = stored_tensors(file.name, *safetensors_header(file))
        size = file.stat().st_size
    except (OSError, ValueError, TypeError, RecursionError, struct.error) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from None
    for name, tensor in tensors.items():
        end = tensor.offset + tensor.size_bytes
        if end > size:
            raise InputError(
                f"{file} is truncated: tensor {name} ends at byte {end:,} and the file at {size:,}; fetch it again"
            )
    return tensors


class _Lazy:
    """A tensor of a checkpoint that is read when it is indexed, as transformers' converter takes it."""

    def __init__(self, shards: Shards, name: str) -> None:
        self._shards = shards
        self._name = name

    def __getitem__(self, index: EllipsisType) -> torch.Tensor:
        return self._shards.read(self._name)[index]

    def is_floating_point(self) -> bool:
        return self._shards.tensors[self._name].dtype.is_floating_point


class Shards:
    """The files of a checkpoint. ``tensors`` is known from the start; a file is there from when ``locate`` returns.

    ``locate`` gives the path of the file of that name, complete, as soon as a tensor of it is asked for: it may block,
    and is called from several threads, as all methods may be. It is asked again only after ``close``.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], locate: Callable[[str], Path]) -> None:
        self.tensors = tensors
        self._locate = locate
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def in_folder(cls, folder: Path) -> Shards:
        """Those of a local checkpoint; raises InputError, with the file and the tensor, for one that is incomplete."""
        tensors: dict[str, StoredTensor] = {}
        for file in weight_files(folder):
            tensors.update(tensors_in(file))
        return cls(tensors, folder.joinpath)

    def read_into(self, name: str, buffer: memoryview, start: int = 0) -> None:
        """Fill ``buffer`` with the bytes of tensor ``name`` from byte ``start`` of it on.

        Raises InputError where the file cannot be read or ends too early.
        """
        tensor = self.tensors[name]
        position = tensor.offset + start
        descriptor = self._descriptor(tensor.file)
        while buffer.nbytes:
            try:
                count = os.preadv(descriptor, [buffer], position)
            except OSError as error:
                raise InputError(f"{tensor.file} cannot be read at tensor {name}: {error}") from None
            if not count:
                raise InputError(f"{tensor.file} is truncated: tensor {name} ends before its last byte")
            buffer, position = buffer[count:], position + count

    def read(self, name: str) -> torch.Tensor:
        """Tensor ``name`` in memory of its own."""
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        self.read_into(name, tensor.reshape(-1).view(torch.uint8).numpy().data)
        return tensor

    def lazy(self, name: str) -> _Lazy:
        """Tensor ``name``, to be read into memory of its own whenever it is indexed with ``...``."""
        return _Lazy(self, name)

    def close(self, files: Iterable[str] | None = None) -> None:
        """Close ``files``, all where None: what is removed then is gone. One that is read again is located again."""
        with self._lock:
            for file in list(self._open) if files is None else files:
                descriptor = self._open.pop(file, None)
                if descriptor is not None:
                    os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file in self._open:
                return self._open[file]
        path = self._locate(file)  # not under the lock: what it waits for may need `close`
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        with self._lock:
            kept = self._open.setdefault(file, descriptor)
        if kept != descriptor:
            os.close(descriptor)
        return kept
