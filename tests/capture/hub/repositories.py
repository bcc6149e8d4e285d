"""What the Hub of these tests serves, and how stores captured from it are compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from schemas import Run
from schemas.run_writer import RunWriter

MODEL, FLAGS = "tiny/Qwen3-Tiny", ("--sequences", 2, "--length", 32, "-q")
FINEWEB = "HuggingFaceFW/fineweb-edu"
CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: data/*/*}]
- config_name: sample-10BT
  data_files: [{split: train, path: sample/10BT/*}]
---
# The shape of FineWeb-Edu's card
"""


def fineweb(folder: Path) -> Path:
    """A dataset with FineWeb-Edu's layout and columns; each document says which file it came from."""
    (folder / "README.md").parent.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name in ("data/CC-MAIN-2013-20/train-00000.parquet", "sample/10BT/000.parquet", "sample/10BT/001.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{name}, document {number}: {'words and ' * 9}more" for number in range(30)]
        rows = {"text": texts, "id": [str(n) for n in range(30)], "score": [3.0] * 30, "int_score": [3] * 30}
        parquet.write_table(pa.table(rows), folder / name, row_group_size=10)
    return folder


def notes(folder: Path) -> Path:
    """A dataset of JSON lines with two splits."""
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"title": f"{split} {n}", "body": f"The {split} note number {n}. " * 8} for n in range(20)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def same_numbers(store: Path, other: Path) -> bool:
    """Whether two stores hold the same arrays."""
    names = sorted(Run(store).group.array_keys())
    assert names == sorted(Run(other).group.array_keys())
    return all(np.array_equal(Run(store).read(n), Run(other).read(n), equal_nan=n == "token_nll") for n in names)


def uncommit(store: Path, sequence: int) -> None:
    """Leave a sequence to be computed again."""
    RunWriter(store).write("committed", (slice(None), sequence), np.zeros(4, np.uint8))
