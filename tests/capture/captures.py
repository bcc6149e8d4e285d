"""Running the capture command in this process, and comparing the stores that it makes, file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from capture.cli import main

__all__ = ["POSITIONS", "PROSE", "SEQUENCES", "capture", "contents"]

SEQUENCES = 3
"""Odd, so that the last batch of two is a batch of one."""
POSITIONS = 24
"""Three times the sliding windows of the tiny checkpoints."""

PROSE = (
    "It was a bright cold day in the harbour, and the clocks of the town were all a little late. The keeper of the "
    "light had counted ships since before the war: barques, steamers, a grey cruiser that came twice and then never "
    "again. He wrote each one down with the hour and the wind, 3 knots or 30, and when the book was full he began "
    "another. Nobody had asked him to. On some nights there was nothing but the sea, and he wrote that down as well.\n"
    "What does one learn from forty years of such numbers? That storms come in pairs; that fog is quieter than snow; "
    "that a thing which happens once in a thousand nights will happen, and that the page must have room for it. "
) * 3


def capture(folder: Path, store: Path, text: Path, *options: Any) -> int:
    """The exit status of ``capture`` run quietly in this process."""
    fixed = ["--model", str(folder), "--store", str(store), "--text", str(text), "--device", "cpu", "-q"]
    return main([*fixed, *map(str, options)])


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store: path inside it -> bytes, without the moment of creation in the root's attributes."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    root = json.loads(files["zarr.json"])
    del root["attributes"]["created"]
    return {**files, "zarr.json": json.dumps(root).encode()}
