"""The README is what a newcomer believes: its tree names every module, its commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from analyze.cli import build_parser as analyze_parser
from capture.cli import build_parser as capture_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def tree() -> set[str]:
    """Paths that the README's tree names, folders with a slash at their end."""
    block = next(block for block in BLOCKS if block.startswith("schemas/"))
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


COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith(("capture ", "analyze "))
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_parses(command: list[str]) -> None:
    parser = {"capture": capture_parser, "analyze": analyze_parser}[command[0]]()
    assert parser.parse_args(command[1:])


def test_there_are_commands_to_parse() -> None:
    assert len(COMMANDS) >= 6


def test_no_placeholder_is_left() -> None:
    assert not [block for block in BLOCKS if re.fullmatch(r"\s*[A-Z]*\s*", block)]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]
