"""README and getting-started are what a newcomer believes: each command is run, small, and prints what they show."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from analyze.cli import build_parser as analyze_parser
from analyze.cli import main as analyze_main
from capture.cli import build_parser as capture_parser
from tests.docs.commands import blocks, commands, fragments, output_after, shape
from tests.docs.conftest import DEMO, Documented

ROOT = Path(__file__).parents[2]
README, STARTED = ROOT / "README.md", ROOT / "docs" / "getting-started.md"
COMMANDS = list({tuple(words): words for page in (README, STARTED) for words in commands(page)}.values())


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def of(command: str) -> list[list[str]]:
    """The commands of both pages that begin with a word."""
    return [words for words in COMMANDS if words[0] == command]


def captures() -> list[list[str]]:
    """The captures of both pages, and those that ``make table`` makes with the flags that they give it."""
    flags = [word.removeprefix("CAPTURE_FLAGS=").split() for words in of("make") for word in words if "_FLAGS=" in word]
    return of("capture") + [["capture", "--model", "qwen3-30b", *some] for some in flags]


def tree() -> set[str]:
    """Paths that the README's tree names, folders with a slash at their end."""
    block = next(text for _, text in blocks(README) if text.startswith("schemas/"))
    named, folders = set(), [""]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = folders[depth] + line.split()[0]
        folders[depth + 1 :] = [path]
        named.add(path)
    return named


def test_the_tree_names_every_module() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("schemas", "capture", "analyze")
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__")
    }
    named = tree()
    told_as_one = [
        name for name in named if name.count("/") == 2 and not any(n != name and n.startswith(name) for n in named)
    ]
    missing = {
        module
        for module in modules
        if module not in named and not any(module.startswith(folder) for folder in told_as_one)
    }
    assert not missing
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("words", captures(), ids=" ".join)
def test_every_capture_runs(words: list[str], documented: Documented, tmp_path: Path) -> None:
    """Against a Hub on this machine, over two sequences; README's demonstration was run when the stores were made."""
    if words == DEMO:
        assert (documented.folder / "runs" / "smollm2-135m.zarr").is_dir()
        return
    if "--help" in words:
        assert documented.process.run("--help").out.startswith("usage: capture")
        return
    ran = documented.capture(words, tmp_path / "run.zarr")
    assert ran.status == 0, ran.err
    assert (tmp_path / "run.zarr").exists() is ("--dry-run" not in words)


@pytest.mark.parametrize("words", of("analyze"), ids=" ".join)
def test_every_analysis_runs(
    words: list[str], documented: Documented, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(documented.folder)
    assert analyze_main(words[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_every_target_of_make_is_there() -> None:
    for words in of("make"):
        done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    demo = subprocess.run(["make", "demo", "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "capture --model smollm2-135m --text pydoc --sequences 16 --length 2048" in demo
    assert "analyze --store runs/smollm2-135m.zarr --magnitude 5 " in demo


def test_every_extra_that_is_named_exists() -> None:
    for page in (README, STARTED):
        named = re.findall(r"\.\[(\w+)\]", page.read_text(encoding="utf-8"))
        assert named
        assert set(named) <= set(EXTRAS)


def test_what_is_installed_and_activated_is_there() -> None:
    """Not run: pip would change what the tests run in."""
    for words in of("pip"):
        assert words[:2] == ["pip", "install"]
        assert re.fullmatch(rf"\.(\[({'|'.join(EXTRAS)})\])?", words[2]), words
    made = re.search(r"^VENV \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made is not None
    assert of("source") == [["source", f"{made[1]}/bin/activate"]]


def test_flags_and_variables_in_sentences_exist() -> None:
    options = {option for parser in (analyze_parser(), capture_parser()) for option in parser._option_string_actions}
    variables = re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in [words for page in (README, STARTED) for words in fragments(page)]:
        for word in words:
            assert not word.startswith("--") or word.partition("=")[0] in options, words
            assert "=" not in word or word.startswith("--") or word.partition("=")[0] in variables, words


def test_every_line_of_a_block_of_commands_is_known() -> None:
    assert {words[0] for words in COMMANDS} == {"analyze", "capture", "make", "pip", "source"}
    assert len(COMMANDS) >= 25


def test_the_capture_prints_what_readme_shows(documented: Documented) -> None:
    shown = output_after(README, "analyze --store runs/smollm2-135m.zarr --magnitude 5")
    assert [line.split()[0] for line in shown.splitlines()] == [
        line.split()[0] for line in documented.printed.splitlines()
    ]
    assert shown.splitlines()[-2:] == documented.printed.splitlines()[-2:]


@pytest.mark.parametrize("magnitude", ["5", "2:7:1"])
def test_the_answer_looks_as_readme_shows(
    magnitude: str, documented: Documented, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is no number, line for line: headings, sentences, rows."""
    monkeypatch.chdir(documented.folder)
    monkeypatch.setenv("COLUMNS", "100")
    command = f"analyze --store runs/smollm2-135m.zarr --magnitude {magnitude}"
    if magnitude == "5":
        shown = next(text for _, text in blocks(README) if text.startswith("smollm2-135m at magnitude 5"))
    else:
        shown = output_after(README, command)
    assert analyze_main(command.split()[1:]) == 0
    printed = shape(re.sub(r"[·▁▂▃▄▅▆▇█]+", "bars", capsys.readouterr().out))
    for paragraph in re.sub(r"[·▁▂▃▄▅▆▇█]+", "bars", shown).split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not re.match(r" +\d+ |.*--features all", line)]
        assert shape("\n".join(lines)).strip() in printed


@pytest.mark.parametrize("page", [README, STARTED], ids=lambda page: page.name)
def test_python_runs(page: Path, documented: Documented, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(documented.folder)
    snippets = [text for language, text in blocks(page) if language == "python"]
    assert snippets
    for snippet in snippets:
        names: dict[str, Any] = {}
        exec(snippet, names)


def test_no_placeholder_is_left() -> None:
    assert not [text for _, text in blocks(README) if re.fullmatch(r"\s*[A-Z]*\s*", text)]
