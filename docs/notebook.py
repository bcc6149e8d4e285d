"""Runs docs/from-capture-to-figure.ipynb: its cells one after another in one namespace, their values as its outputs.

No kernel and no Jupyter: of what those do, the notebook needs that the last expression of a cell is shown and that a
figure is drawn. ``python -m docs.notebook`` stores what the cells show (docs/decisions/062).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("from-capture-to-figure.ipynb")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """``notebook`` with the outputs that its code cells have when they are run in the current folder."""
    import matplotlib

    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell = {**cell, "execution_count": number, "outputs": _outputs("".join(cell["source"]), names, number)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    import matplotlib.pyplot as plt

    body = ast.parse(source).body
    quiet = source.rstrip().endswith(";")
    last = body.pop() if isinstance(body[-1], ast.Expr) and not quiet else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if plt.get_fignums():
        image = io.BytesIO()
        plt.gcf().savefig(image, format="png", dpi=100, metadata={"Software": None})
        plt.close("all")
        data = {"image/png": base64.b64encode(image.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    elif value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": number, "data": shown, "metadata": {}})
    return outputs


def main() -> None:
    """Run the notebook in an empty folder and store its outputs in it."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            notebook = executed(notebook)
        finally:
            os.chdir(here)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
