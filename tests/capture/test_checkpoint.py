"""Finding a checkpoint: names, default stores, refused folders, and a fingerprint that tells checkpoints apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.checkpoint import find_model, fingerprint, weight_files
from capture.presets import PRESETS, PUBLISHED_MOE_TABLE
from schemas.errors import InputError
from tests.checkpoints import write_checkpoint

LARGE = (3, 1024, 1024)
"""A float32 tensor of 12 MiB: the fingerprint samples it."""


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in three shards, for a test to spoil."""
    return write_checkpoint(tmp_path / "sharded", "qwen3", sharded=True)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_and_name_their_store(name: str) -> None:
    source = find_model(name)
    assert source.preset == name
    assert str(source.default_store) == f"runs/{'qwen3' if name == 'qwen3-30b' else name}.zarr"


def test_the_published_table_is_seven_presets() -> None:
    assert len(PUBLISHED_MOE_TABLE) == 7
    assert set(PUBLISHED_MOE_TABLE) < set(PRESETS)


def test_a_hub_id_needs_no_network_to_be_named() -> None:
    source = find_model("Owner/Some-Model.v1")
    assert (source.id, source.folder, source.preset) == ("Owner/Some-Model.v1", None, None)
    assert str(source.default_store) == "runs/Some-Model.v1.zarr"


def test_a_folder_is_taken_before_a_hub_id(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(sharded, tmp_path / "owner" / "Tiny")
    monkeypatch.chdir(tmp_path)
    source = find_model("owner/Tiny")
    assert (source.id, source.folder) == ("Tiny", Path("owner/Tiny"))
    assert str(source.default_store) == "runs/Tiny.zarr"
    monkeypatch.chdir(tmp_path / "owner" / "Tiny")
    assert find_model(".").id == "Tiny"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qwen3-30", "qwen3-30b"),
        ("Qwen3-30B", "qwen3-30b"),
        ("gpt-2", "gpt2"),
        ("mixtral", "mixtral-8x7b"),
        ("gpt-oss", "gpt-oss-20b"),
        ("smollm2", "smollm2-135m"),
        ("OLMoE", "olmoe-1b-7b"),
    ],
)
def test_an_unknown_name_gets_near_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match="Did you mean") as caught:
        find_model(name)
    assert near in str(caught.value).split("Presets:")[0]


@pytest.mark.parametrize("name", ["", "x", "a/b/c", "../nowhere", "./nowhere", "owner/na me", "https://host/a/b"])
def test_what_is_no_name_lists_the_presets(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_model(name)
    assert f"--model {name}" in str(caught.value)
    assert all(preset in str(caught.value) for preset in PRESETS)


def test_the_files_of_a_sharded_checkpoint_are_those_of_its_index(sharded: Path) -> None:
    (sharded / "consolidated.safetensors").write_bytes(b"not named in the index")
    assert [file.name for file in weight_files(sharded)] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_a_whole_file_comes_first_and_what_lies_beside_it_is_none(sharded: Path) -> None:
    for name in ("model", "consolidated", "adapter_model"):
        (sharded / f"{name}.safetensors").write_bytes(b"")
    assert [file.name for file in weight_files(sharded)] == ["model.safetensors"]


def test_weights_under_a_name_that_transformers_does_not_look_for_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("qwen3"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(InputError, match=r"holds consolidated\.safetensors, but neither .* rename it to model\.saf"):
        weight_files(folder)


def test_missing_shards_are_counted_and_the_first_is_named(sharded: Path) -> None:
    for number in (2, 3):
        (sharded / f"model-0000{number}-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"2 of 3 shards .* first model-00002-of-00003.safetensors"):
        weight_files(sharded)


@pytest.mark.parametrize("content", ["{", "[]", '{"metadata": {}}', '{"weight_map": 3}'])
def test_a_damaged_index_is_refused(content: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json is not a readable index"):
        weight_files(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickled_weights_are_refused_unread(name: str, sharded: Path) -> None:
    for file in sharded.glob("*.safetensors*"):
        file.unlink()
    (sharded / name).write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(InputError, match=rf"only pickled weights \({name}\).*save_pretrained"):
        weight_files(sharded)


def test_a_folder_without_weights_or_configuration_is_refused(sharded: Path) -> None:
    for file in sharded.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors file in it"):
        weight_files(sharded)
    (sharded / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json in it"):
        weight_files(sharded)


def test_the_fingerprint_is_of_tensors_and_not_of_files(checkpoint: Callable[[str], Path], sharded: Path) -> None:
    assert fingerprint(weight_files(sharded)) == fingerprint(weight_files(checkpoint("qwen3")))
    assert fingerprint(weight_files(sharded)) != fingerprint(weight_files(checkpoint("olmoe")))


@pytest.mark.parametrize("change", ["value", "name", "shape", "dtype"])
def test_any_change_of_a_small_tensor_changes_the_fingerprint(change: str, sharded: Path) -> None:
    file = weight_files(sharded)[1]
    before, state = fingerprint(weight_files(sharded)), load_file(file)
    name, tensor = min(state.items(), key=lambda item: item[1].numel())
    if change == "name":
        state[f"{name}x"] = state.pop(name)
    elif change == "value":
        tensor.view(-1).view(torch.int16)[-1] ^= 1
    else:
        state[name] = tensor.reshape(2, -1).clone() if change == "shape" else tensor.view(torch.float16).clone()
    save_file(state, file, metadata={"format": "pt"})
    assert fingerprint(weight_files(sharded)) != before


@pytest.mark.parametrize("place", ["first", "last", "layer"])
def test_a_large_tensor_is_sampled_from_its_first_byte_to_its_last(place: str, tmp_path: Path) -> None:
    tensor = torch.arange(torch.Size(LARGE).numel(), dtype=torch.float32).reshape(LARGE)
    save_file({"experts": tensor}, tmp_path / "model.safetensors")
    before = fingerprint([tmp_path / "model.safetensors"])
    if place == "layer":
        tensor[1] = 0
    else:
        tensor.view(-1)[0 if place == "first" else -1] += 1
    save_file({"experts": tensor}, tmp_path / "model.safetensors")
    assert fingerprint([tmp_path / "model.safetensors"]) != before


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(kept: float, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    data = (checkpoint("qwen3") / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    file.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"model\.safetensors is (truncated|not a readable safetensors file)"):
        fingerprint([file])


@pytest.mark.parametrize("size", [b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x00" * 4 + b"\x01\x00\x00\x00"])
def test_a_header_longer_than_the_file_is_refused(size: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(size + b"{}")
    with pytest.raises(InputError, match="it ends before its header does"):
        fingerprint([file])


@pytest.mark.parametrize("header", [b"[]", b"{}x", b'{"a": 3}', b'{"a": {"dtype": "BF16", "shape": [2]}}'])
def test_a_header_that_is_none_is_refused(header: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"model\.safetensors is not a readable safetensors file"):
        fingerprint([file])
