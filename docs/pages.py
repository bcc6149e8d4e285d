"""``make docs``: the pages that are written from the code, docs/cli.md, docs/python-api.md and the index of decisions.

``python -m docs.pages`` writes them. Made of the parsers and of the syntax tree, not of what argparse and inspect
print: that differs between versions of Python.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parent
EDITED = "Written by `make docs` from {}; edits are lost."


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    made = {"cli.md": cli_page, "python-api.md": python_page, "decisions/README.md": decisions_page}
    return {FOLDER / name: "\n".join(page()) for name, page in made.items()}


def cli_page() -> Iterator[str]:
    """Both commands: what they are, their flags in groups, and examples."""
    from analyze.cli import build_parser as analyze_parser
    from capture.cli import build_parser as capture_parser

    yield f"# The commands\n\n{EDITED.format('what `--help` says')}\n"
    yield "What the flags of a definition mean exactly: [definitions.md](definitions.md). What `analyze --format json`"
    yield "prints: [results.md](results.md)."
    for parser in (capture_parser(), analyze_parser()):
        yield f"\n## {parser.prog}\n\n{parser.description}".rstrip()
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if actions:
                yield from _flags(parser, group, actions)
        yield f"\n```text\n{(parser.epilog or '').strip()}\n```"
    yield ""


def _flags(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup, actions: list[Any]) -> Iterator[str]:
    title = group.title or ""
    yield f"\n### {parser.prog}: {'flags' if title == 'options' else title}\n"
    if group.description:
        yield f"{group.description[0].upper()}{group.description[1:]}.\n"
    yield "| flag | |\n|---|---|"
    for action in actions:
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        value = f" {_value(action)}" if action.nargs != 0 else ""
        words = (action.help or "") % {"prog": parser.prog, "default": action.default}
        yield f"| {names}{value} | {_cell(words)} |"


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return " \\| ".join(f"`{choice}`" for choice in action.choices)
    named = action.metavar or action.dest.upper()
    words = " ".join(named) if isinstance(named, tuple) else named
    ending = {"+": " ...", "?": " or nothing"}.get(str(action.nargs), "")
    return "`" + words.replace("|", "\\|") + "`" + ending


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def python_page() -> Iterator[str]:
    """The public names of both packages, from their docstrings."""
    yield f"# Python\n\n{EDITED.format('docstrings')} Everything that the commands do is one of these calls.\n"
    yield "Every error is a `schemas.OutlierFeaturesError`; of an argument or a store, a `ValueError` too."
    yield "The examples run in the tests, on a store of two layers, three sequences and four features."
    for name in ("analyze", "schemas"):
        package = importlib.import_module(name)
        yield f"\n## {name}\n\n{_markdown(package.__doc__)}"
        for public in sorted(package.__all__, key=lambda text: (text[0].isupper(), text)):
            yield from _entry(package, public)
    yield ""


def _entry(package: ModuleType, name: str) -> Iterator[str]:
    held = getattr(package, name)
    if isinstance(held, ModuleType):  # analyze.statistics, a package that can be called
        held = getattr(importlib.import_module(package._HOMES[name]), name)
    yield f"\n### {package.__name__}.{name}\n"
    if not (inspect.isfunction(held) or inspect.isclass(held)):
        yield _constant(package, name, held)
        return
    node = ast.parse(textwrap.dedent(inspect.getsource(held))).body[0]
    if isinstance(node, ast.ClassDef):
        yield from _class(node, held)
    elif isinstance(node, ast.FunctionDef):
        yield f"```python\n{_signature(node)}\n```\n\n{_markdown(held.__doc__)}"


def _constant(package: ModuleType, name: str, held: Any) -> str:
    """A value, and the docstring that follows it where it is defined."""
    values = ", ".join(f"`{key}`" for key in held) if isinstance(held, Mapping) else f"`{held!r}`"
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(package.__name__) and getattr(module, name, None) is held:
            body = ast.parse(inspect.getsource(module)).body
            for one, following in pairwise(body):
                targets = [one.target] if isinstance(one, ast.AnnAssign) else getattr(one, "targets", [])
                if name in [getattr(target, "id", None) for target in targets] and isinstance(following, ast.Expr):
                    words = getattr(following.value, "value", "")
                    return f"{values}. {_markdown(str(words))}"
    return f"{values}."


def _class(node: ast.ClassDef, held: type) -> Iterator[str]:
    yield _markdown(inspect.getdoc(held))
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and not _private(one.target)]
    if fields:
        yield f"\n```python\nclass {node.name}:"
        for one in fields:
            default = one.value if isinstance(one.value, ast.Constant | ast.Tuple) else None
            given = "" if default is None else f" = {_source(default)}"
            yield f"    {_source(one.target)}: {_source(one.annotation)}{given}"
        yield "```"
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    if methods:
        yield ""
    for one in methods:
        plain = any(getattr(decorator, "id", "") == "property" for decorator in one.decorator_list)
        signed = one.name if plain else f"{one.name}({_arguments(one)})"
        words = " ".join(_markdown(ast.get_docstring(one)).split("\n\n```")[0].split())
        yield f"- `{signed}`: {words}"


def _source(node: ast.AST) -> str:
    """As ruff writes it, which formats the code of pages too: texts in double quotes."""
    text = ast.unparse(node)
    return text if '"' in text else text.replace("'", '"')


def _private(target: ast.expr) -> bool:
    return _source(target).startswith("_")


def _arguments(node: ast.FunctionDef) -> str:
    return _source(node.args).removeprefix("self, ").removeprefix("self")


def _signature(node: ast.FunctionDef) -> str:
    """The call with its types, a parameter a line where it is long."""
    returns = f" -> {_source(node.returns)}" if node.returns else ""
    arguments, parts = node.args, []
    missing = len(arguments.args) - len(arguments.defaults)
    for i, argument in enumerate(arguments.args):
        default = arguments.defaults[i - missing] if i >= missing else None
        parts.append(_argument(argument, default))
    if arguments.vararg or arguments.kwonlyargs:
        parts.append(f"*{_source(arguments.vararg) if arguments.vararg else ''}")
    parts += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        parts.append(f"**{_source(arguments.kwarg)}")
    line = f"{node.name}({', '.join(parts)}){returns}"
    if len(line) <= 110:
        return line
    return f"{node.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return _source(argument) + ("" if default is None else f" = {_source(default)}")


def _markdown(docstring: str | None) -> str:
    """A docstring as Markdown: examples as code, ``names`` as `names`."""
    told = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        if paragraph.lstrip().startswith(">>>"):
            told.append(f"```python\n{re.sub(r'  # doctest:.*', '', paragraph)}\n```")
        else:
            told.append(re.sub(r"``([^`]+)``", r"`\1`", paragraph))
    return "\n\n".join(told)


def decisions_page() -> Iterator[str]:
    """The decisions by number, each with its title."""
    yield f"# Decisions\n\n{EDITED.format('the titles of the pages here')}\n"
    yield "Each says what the problem was, what was chosen, what was rejected, and what was measured.\n"
    for page in sorted((FOLDER / "decisions").glob("[0-9]*.md")):
        number, title = re.findall(r"\w+", page.name)[0], page.read_text(encoding="utf-8").split("\n", 1)[0]
        yield f"- [{number}]({page.name}): {re.sub(r'^# [0-9]+[.:] *', '', title).rstrip('.')}"
    yield ""


def main() -> None:
    """Write the pages whose text has changed, and say which."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(FOLDER.parent))


if __name__ == "__main__":
    main()
