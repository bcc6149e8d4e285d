"""Who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "dask", "xarray", "datasets", "pandas", "capture", "analyze"}

# What is installed without extras: the capture side's packages cannot be found.
WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = {"torch", "transformers", "accelerate", "datasets", "safetensors", "huggingface_hub", "tokenizers"}
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_import_contracts_hold() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    found = python(code, "--no-cache")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("module", ["schemas", "schemas.run", "schemas.dataset", "analyze", "capture"])
def test_importing_a_package_pulls_in_nothing_heavy(module: str) -> None:
    found = python(f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))")
    assert found.returncode == 0, found.stderr
    assert HEAVY.intersection(found.stdout.split()) - {module.split(".")[0]} == set()


@pytest.mark.parametrize("package", ["schemas", "analyze"])
def test_names_imported_when_used_are_those_that_a_type_checker_sees(package: str) -> None:
    """At their homes too: nothing else holds the two lists of a package against each other."""
    module = importlib.import_module(package)
    seen = {
        name.asname: statement.module
        for block in ast.parse(Path(module.__file__ or "").read_text()).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
        if name.asname == name.name
    }
    assert seen == module._HOMES
    assert sorted(module.__all__) == sorted(seen)


def test_a_command_starts_with_next_to_nothing_that_an_interrupt_could_tear() -> None:
    found = python("import sys, analyze.__main__, capture.__main__; print(*sys.modules)")
    assert not {"numpy", "zarr", "pydantic", "argparse"} & set(found.stdout.split()), found.stderr


@pytest.mark.parametrize("command", ["analyze", "capture"])
def test_help_answers_without_the_heavy_packages(command: str) -> None:
    code = f"""
import sys
from {command}.cli import main
try:
    main(["--help"])
finally:
    heavy = {{"torch", "transformers", "dask", "xarray", "datasets", "pandas"}} & set(sys.modules)
    print("HEAVY", *sorted(heavy), file=sys.stderr)
"""
    found = python(code)
    assert found.stdout.startswith("usage:"), found.stderr
    assert found.stderr == "HEAVY\n"


@pytest.mark.parametrize("module", ["analyze", "analyze.cli", "capture", "capture.cli"])
def test_a_command_may_be_run_as_a_module(module: str) -> None:
    found = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert "required" in found.stderr


def test_analyze_works_without_extras() -> None:
    found = python(WITHOUT_EXTRAS + "from analyze.cli import main; main(['--help'])")
    assert found.returncode == 0, found.stderr
    assert "--magnitude" in found.stdout


def test_capture_without_extras_names_the_command_that_installs_them() -> None:
    found = python(WITHOUT_EXTRAS + "from capture.cli import main; sys.exit(main(['--model', 'gpt2']))")
    assert found.returncode == 2, found.stderr
    assert "pip install 'outlier-features[capture]'" in found.stderr
    assert "Traceback" not in found.stderr
