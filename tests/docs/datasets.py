"""A dataset with the layout of FineWeb-Edu, small."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

__all__ = ["fineweb"]

CARD = """---
configs:
- config_name: sample-10BT
  data_files: [{split: train, path: sample/10BT/*}]
---
# The shape of FineWeb-Edu's card
"""


def fineweb(folder: Path) -> Path:
    """``folder``, now a repository with one file of thirty documents."""
    file = folder / "sample" / "10BT" / "000.parquet"
    file.parent.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    texts = [f"Document {number}: {'words and ' * 12}more" for number in range(30)]
    parquet.write_table(pa.table({"text": texts}), file)
    return folder
