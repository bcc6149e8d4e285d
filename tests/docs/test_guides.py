"""What the guides tell to write is written, and found everywhere that they say; the notebook runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import analyze.criteria
import capture.cli
import capture.text
from analyze import evaluate_criteria
from analyze.cli import build_parser
from analyze.cli import main as analyze_main
from capture.checkpoint import find_model
from capture.presets import PRESETS, Preset
from capture.text import NAMED_SOURCES, TextSource, documents, parse_text
from docs.notebook import NOTEBOOK, executed
from tests.docs.commands import blocks, commands
from tests.docs.conftest import Documented
from tests.stores import write_store

DOCS = Path(__file__).parents[2] / "docs"


def python_of(page: str) -> list[str]:
    return [text for language, text in blocks(DOCS / page) if language == "python"]


def row_of(text: str, **names: Any) -> dict[str, Any]:
    """The rows of a registry that a page shows."""
    rows: dict[str, Any] = eval("{" + text + "}", names)
    return rows


def test_a_criterion_in_one_file_is_found_by_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = python_of("adding-a-criterion.md")
    (tmp_path / "criteria").mkdir()
    (tmp_path / "criteria" / "crest_factor.py").write_text(source)
    monkeypatch.setattr(analyze.criteria, "__path__", [*analyze.criteria.__path__, str(tmp_path / "criteria")])
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    x = np.ones((2, 1, 500, 3), np.float32)
    x[1, 0, 7, 2] = 100
    write_store(Path("runs/smollm2-135m.zarr"), {"ln_attn": x})

    assert "crest-factor" in build_parser().format_help()
    for words in [words for words in commands(DOCS / "adding-a-criterion.md") if words[0] == "analyze"]:
        assert analyze_main(words[1:]) == 0
        out = capsys.readouterr().out
    rows = json.loads(out)["tables"][0]["rows"]
    assert [row["count"] for row in rows] == [0, 1]
    assert rows[1]["greatest"] == pytest.approx(100 / np.sqrt((499 + 100**2) / 500), rel=1e-12)
    found = evaluate_criteria("runs/smollm2-135m.zarr", "crest-factor")["crest-factor"]
    assert found.spiky.values.ravel().tolist() == [False] * 5 + [True]


def test_a_preset_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = python_of("adding-a-model.md")
    (name, preset), *others = row_of(text, Preset=Preset).items()
    assert not others
    more: Mapping[str, Preset] = MappingProxyType({**PRESETS, name: preset})
    for module in ("capture.presets", "capture.cli", "capture.checkpoint", "capture.preparation"):
        monkeypatch.setattr(f"{module}.PRESETS", more)
    model = find_model(name)
    assert (model.id, model.preset, model.default_store) == (preset.hub_id, name, Path(f"runs/{name}.zarr"))
    assert name in capture.cli.build_parser().format_help()


def test_a_text_source_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    named, *_ = python_of("adding-a-text-source.md")
    ((name, source),) = row_of(named, TextSource=TextSource).items()
    monkeypatch.setattr(capture.text, "NAMED_SOURCES", MappingProxyType({**NAMED_SOURCES, name: source}))
    assert parse_text(name) == source
    assert parse_text(f"{name},split=train").split == "train"


def test_a_kind_of_file_is_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, function, row = python_of("adding-a-text-source.md")
    names: dict[str, Any] = {"TextSource": TextSource, "Path": Path, "Iterator": Iterator}
    exec(function, names)
    readers: Mapping[str, Callable[..., Any]] = {**capture.text.FILE_READERS, **row_of(row, **names)}
    monkeypatch.setattr(capture.text, "FILE_READERS", readers)
    (tmp_path / "a.md").write_text("# Title\n\nSome words.\n\n\n\nMore.\n")
    assert list(documents(parse_text(str(tmp_path / "a.md")), None)) == ["# Title", "Some words.", "More.\n"]


@pytest.mark.parametrize("page", ["adding-a-model.md", "adding-a-text-source.md"])
def test_the_commands_of_other_guides_are_understood(page: str) -> None:
    """Parsed and no more: what they name is on the Hub."""
    shown = [words for words in commands(DOCS / page) if words[0] == "capture" and "--help" not in words]
    assert shown
    for words in shown:
        capture.cli.build_parser().parse_args(words[1:])


def test_the_notebook_runs_and_shows_what_it_holds(documented: Documented, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the store of README's demonstration, which its capture takes for its own; a figure's bytes may differ."""
    monkeypatch.chdir(documented.folder)
    shutil.copytree("runs/smollm2-135m.zarr", "runs/notebook.zarr")
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    again = executed(stored)
    assert Path("runs/notebook.svg").stat().st_size > 10_000
    shown, now = ([_shown(cell) for cell in notebook["cells"]] for notebook in (stored, again))
    assert shown == now
    assert len(stored["cells"]) == 10
    assert NOTEBOOK.stat().st_size < 100_000


def _shown(cell: dict[str, Any]) -> list[str]:
    """What a cell shows, numbers out: they are the CPU's."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {"text/plain": output.get("text", [])})
        kinds = sorted(data)
        text = "".join(data.get("text/plain", []))
        texts.append(f"{output['output_type']} {kinds} {re.sub(r'[0-9][0-9.]*', '#', text)}")
    return [re.sub(r"\s+", " ", text.replace(" (nothing to compute)", "")) for text in texts]
