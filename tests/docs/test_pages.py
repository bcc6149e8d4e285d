"""The pages in docs/: those made of the code are what it makes now, and every link in any of them leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analyze.cli import build_parser as analyze_parser
from capture.cli import build_parser as capture_parser
from docs.pages import pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_generated_page_is_what_the_code_says_now(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == pages()[path], "stale: make docs"


@pytest.mark.parametrize("parser", [capture_parser(), analyze_parser()], ids=lambda parser: parser.prog)
def test_every_flag_of_the_help_is_on_the_page(parser: object) -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    told = set(re.findall(r"--[a-z][a-z-]+", parser.format_help()))  # type: ignore[attr-defined]
    assert {flag for flag in told if f"`{flag}`" not in page} <= {"--help"}


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    linked: set[str] = set()
    for heading in headings:
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        linked.add(next(a for a in (anchor, *(f"{anchor}-{n}" for n in range(1, 99))) if a not in linked))
    return linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_the_index_names_every_page_once() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\s*- \[[^]]*\]\(([^)]+)\)", index, re.MULTILINE)
    there = {path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")}
    assert sorted(linked) == sorted(there - {"README.md"} | {"decisions/README.md"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_that_the_code_names_are_there(page: Path) -> None:
    """A page named as text, ``docs/NAME.md``, is one."""
    named = set(re.findall(r"\bdocs/[a-z0-9/-]+\.(?:md|ipynb)", page.read_text(encoding="utf-8")))
    assert not {name for name in named if not (ROOT / name).exists()}


def test_pages_that_docstrings_name_are_there() -> None:
    named = {
        name
        for package in ("analyze", "capture", "schemas", "bench")
        for module in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bdocs/[a-z0-9/-]+\.md", module.read_text(encoding="utf-8"))
    }
    assert named
    assert not {name for name in named if not (ROOT / name).exists()}
