"""Where a model's checkpoint is and what identifies it: presets, Hub ids, local folders, one packaged model.

Only safetensors checkpoints are read: unpickling a downloaded file runs its code.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from capture.presets import PRESETS
from schemas.errors import InputError, MissingDependencyError

__all__ = [
    "INDEX",
    "WHOLE",
    "ModelSource",
    "find_model",
    "fingerprint",
    "require_checkpoint",
    "weight_files",
    "weight_names",
]

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GGUF = (
    "A GGUF file keeps its weights packed, and transformers computes with them in float32: its activations are not the "
    "model's. Use the safetensors checkpoint that it was made from, or make one: AutoModelForCausalLM.from_pretrained("
    "folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))"
    ".save_pretrained(new_folder), and its tokenizer"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
WHOLE_TENSOR_BYTES = 2**20
SAMPLES_OF_A_TENSOR = 4
SAMPLE_BYTES = 4 * 2**10


@dataclass(frozen=True)
class ModelSource:
    """A model as found, before anything is downloaded.

    ``name`` is what the user typed; ``id`` what provenance records; ``folder`` where a local checkpoint lies, None
    for a Hub repository; ``preset`` the preset's name, None for other models.
    """

    name: str
    id: str
    folder: Path | None
    preset: str | None = None

    @property
    def default_store(self) -> Path:
        """``runs/NAME.zarr``, the preset's own store name where it has one."""
        if self.preset is not None:
            return Path("runs", f"{PRESETS[self.preset].store or self.preset}.zarr")
        return Path("runs", f"{Path(self.id).name}.zarr")


def find_model(name: str) -> ModelSource:
    """The model called ``name``: a preset, a folder, or a Hub id, in that order.

    Raises InputError where it is none of them, or a folder that holds no safetensors checkpoint.
    """
    if name in PRESETS:
        preset = PRESETS[name]
        if preset.package is not None:
            from capture.packaged import packaged_checkpoint

            folder = packaged_checkpoint(preset.package)
            if folder is not None:
                return ModelSource(name, f"{preset.hub_id} ({preset.package})", folder, name)
        return ModelSource(name, preset.hub_id, None, name)
    folder = Path(os.path.expanduser(name))  # Path's own raises for a user whom nobody knows
    if name and os.path.isdir(folder):  # and this for a name too long
        weight_files(folder)
        return ModelSource(name, folder.resolve().name, folder)
    if os.path.isfile(folder):
        if folder.suffix == ".gguf":
            raise InputError(f"--model {name}: {GGUF}")
        raise InputError(f"--model {name} is a file; give the folder that holds config.json and *.safetensors")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        near = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"--model {name}: no preset, folder or Hub id (OWNER/NAME) is called that.{hint} "
            f"Presets: {', '.join(PRESETS)}"
        )
    return ModelSource(name, name, None)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a local checkpoint, in name order: those that ``weight_names`` gives.

    Raises InputError where there is no config.json, no weights, only pickled weights, or a shard is missing.
    """
    if not (folder / "config.json").is_file():
        require_checkpoint([file.name for file in folder.iterdir()], folder)
    names = weight_names([file.name for file in folder.iterdir()], folder)
    if not names:
        require_checkpoint([file.name for file in folder.iterdir()], folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(names)} shards named in {INDEX} are missing, first {missing[0]}; "
            "complete the download"
        )
    return [folder / name for name in names]


def weight_names(files: Collection[str], folder: Path) -> list[str]:
    """Those that transformers takes of ``files``, the names where the weights are; the index is in ``folder``.

    A whole file comes before an index, and whatever else lies beside them is left alone: the same weights once more
    under other names, an adapter. All engines go by this, or they would differ in their numbers. Empty where none has
    such a name. Raises InputError for an index that cannot be read.
    """
    return [WHOLE] if WHOLE in files else _shard_names(folder) or []


def _shard_names(folder: Path) -> list[str] | None:
    """The shards that the index in ``folder`` names, in name order; None where there is no index.

    Raises InputError for an index that cannot be read.
    """
    index = folder / INDEX
    if not index.is_file():
        return None
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not a readable index of shards: {error!r}") from None
    return sorted(names)


def require_checkpoint(files: Sequence[str], where: object) -> None:
    """Raise InputError unless ``files``, the names in a folder or repository, have a configuration and safetensors."""
    top = [name for name in files if "/" not in name]
    safe = any(name.endswith(".safetensors") for name in top)
    packed = next((name for name in sorted(top) if name.endswith(".gguf")), None)
    if packed is not None and not safe:
        raise InputError(f"{where} holds {packed}, but no *.safetensors. {GGUF}")
    if "config.json" not in files:
        raise InputError(f"{where} holds no checkpoint: there is no config.json in it")
    if WHOLE in top or INDEX in top:
        return
    if safe:
        other = min(name for name in top if name.endswith(".safetensors"))
        raise InputError(
            f"{where} holds {other}, but neither {WHOLE} nor {INDEX}, by which transformers finds a model's weights; "
            f"if {other} is all of them, in transformers' names, rename it to {WHOLE}"
        )
    pickled = sorted(name for name in top if Path(name).suffix in PICKLED)
    if pickled:
        raise InputError(
            f"{where} holds only pickled weights ({', '.join(pickled[:3])}), which can run code when read; "
            "convert them with model.save_pretrained(folder), which writes safetensors"
        )
    raise InputError(f"{where} holds no checkpoint: there is no *.safetensors file in it")


def safetensors_header(file: Path) -> tuple[dict[str, Any], int]:
    """(tensor name -> dtype, shape, data_offsets; offset of the data) of a safetensors file; ValueError for others."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > file.stat().st_size - 8:
            raise ValueError("it ends before its header does")
        header = json.loads(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    for name, about in header.items():
        if not isinstance(about, dict) or not isinstance(about.get("dtype"), str):
            raise ValueError(f"its header does not say what tensor {name} is")
        shape, offsets = about.get("shape"), about.get("data_offsets")
        if not (_are_counts(shape) and _are_counts(offsets)) or len(offsets) != 2:
            raise ValueError(f"its header does not say where tensor {name} is")
    return header, 8 + size


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def fingerprint(files: list[Path]) -> str:
    """A digest that tells two checkpoints apart without reading all of a large one, as hexadecimal SHA-256.

    It covers every tensor's name, dtype and shape, tensors up to 1 MiB whole (norms, routers, biases), and 4 blocks
    of 4 KiB spread over each larger one: under 1% of Qwen3-30B's 61 GB in 18,000 expert matrices. How tensors are
    spread over shards does not matter.
    """
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for file in files:
        try:
            header, start = safetensors_header(file)
        except (OSError, ValueError, RecursionError, struct.error) as error:
            raise InputError(f"{file} is not a readable safetensors file: {error}") from None
        for name, about in header.items():
            tensors[name] = (file, start, about)
    digest = hashlib.sha256()
    opened = {file: file.open("rb", buffering=0) for file in files}
    try:
        for name in sorted(tensors):
            file, start, about = tensors[name]
            begin, end = about["data_offsets"]
            digest.update(json.dumps([name, about["dtype"], about["shape"]]).encode())
            blocks = [(begin, end - begin)]
            if end - begin > WHOLE_TENSOR_BYTES:
                room = end - begin - SAMPLE_BYTES
                steps = SAMPLES_OF_A_TENSOR - 1
                blocks = [(begin + room * i // steps, SAMPLE_BYTES) for i in range(SAMPLES_OF_A_TENSOR)]
            for offset, size in blocks:
                opened[file].seek(start + offset)
                data = opened[file].read(size)
                if len(data) != size:
                    raise InputError(f"{file} is truncated: tensor {name} ends before its last byte")
                digest.update(data)
    finally:
        for stream in opened.values():
            stream.close()
    return digest.hexdigest()


def require_capture_extra() -> None:
    """Raise MissingDependencyError, with the command that helps, where torch and its company are not installed."""
    import importlib.util

    missing = [
        package
        for package in ("torch", "transformers", "datasets", "safetensors", "accelerate")
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise MissingDependencyError(
            f"capture needs {', '.join(missing)}, not installed here (analyze does not); "
            "install with: pip install 'outlier-features[capture]'"
        )
