"""Where tensors lie in a checkpoint's files, bytes read by position, files located when they are first needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.weights.shards import Shards, StoredTensor, stored_tensors
from schemas.errors import InputError
from tests.checkpoints import write_checkpoint

VALUES = {
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "bytes": torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    "half": torch.linspace(-1, 1, 10).half(),
    "brain": torch.randn(5, 3).bfloat16(),
    "eighth": torch.randn(4, 4).to(torch.float8_e4m3fn),
    "long": torch.tensor([2**40, -1]),
    "truth": torch.tensor([True, False, True]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file(VALUES, tmp_path / "model.safetensors")
    return tmp_path


def test_every_dtype_and_shape(folder: Path) -> None:
    shards = Shards.in_folder(folder)
    assert set(shards.tensors) == set(VALUES)
    for name, value in VALUES.items():
        read = shards.read(name)
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        assert read.reshape(-1).view(torch.uint8).equal(value.reshape(-1).view(torch.uint8))


def test_a_part_of_a_tensor(folder: Path) -> None:
    buffer = bytearray(5)
    Shards.in_folder(folder).read_into("bytes", memoryview(buffer), 4)
    assert list(buffer) == [4, 5, 6, 7, 8]


def test_files_are_located_when_first_needed_and_after_being_closed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "qwen3", "qwen3", sharded=True)
    located: list[str] = []

    def locate(file: str) -> Path:
        located.append(file)
        return folder / file

    shards = Shards(Shards.in_folder(folder).tensors, locate)
    first, *_, last = sorted({tensor.file for tensor in shards.tensors.values()})
    names = {file: [name for name, tensor in shards.tensors.items() if tensor.file == file] for file in (first, last)}
    assert located == []
    for name in names[first]:
        assert shards.read(name).equal(load_file(folder / first)[name])
    assert located == [first]
    shards.read(names[last][0])
    shards.close([first, "never opened"])
    (folder / first).unlink()
    shards.read(names[last][1])
    assert located == [first, last]
    with pytest.raises(InputError, match=f"{first} cannot be read"):
        shards.read(names[first][0])
    assert located == [first, last, first]


@pytest.mark.parametrize("removed", [1, 3])
def test_a_truncated_file_is_named_with_its_tensor(removed: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    last = max(Shards.in_folder(folder).tensors.values(), key=lambda tensor: tensor.offset + tensor.size_bytes)
    file.write_bytes(file.read_bytes()[:-removed])
    with pytest.raises(InputError, match=rf"model\.safetensors is truncated: tensor {last.name} ends at byte"):
        Shards.in_folder(folder)


def test_a_file_that_shrinks_later(folder: Path) -> None:
    shards = Shards.in_folder(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.safetensors is truncated: tensor long"):
        shards.read("long")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}, "dtype F4, which is not read here"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, r"4 bytes, its shape \[2\] says otherwise"),
        ({"dtype": "F32", "shape": None, "data_offsets": [0, 4]}, "not a readable safetensors file"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "not a readable safetensors file"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "does not say where tensor w is"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "does not say where tensor w is"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "does not say what tensor w is"),
    ],
)
def test_a_header_that_contradicts_itself(about: dict[str, object], message: str, folder: Path) -> None:
    header = json.dumps({"w": about}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(InputError, match=message):
        Shards.in_folder(folder)


def test_positions_count_from_the_start_of_the_file() -> None:
    header = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [10, 22]}}
    tensor = stored_tensors("a.safetensors", header, 100)["w"]
    assert tensor == StoredTensor("w", "a.safetensors", 110, torch.bfloat16, (2, 3))
    assert tensor.size_bytes == 12
